//! A terminal whose keys go elsewhere, and which is itself again afterwards, however the program ends.

use std::{io, panic};

use rustix::{
    stdio::stdin,
    termios::{OptionalActions, Termios, tcgetattr, tcsetattr},
};

/// Standard input as a terminal in raw mode, until dropped.
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// None when standard input is no terminal.
    pub fn enter() -> io::Result<Option<Self>> {
        let Ok(before) = tcgetattr(stdin()) else { return Ok(None) };
        // A panic ends the program without dropping anything.
        let (hook, at_panic) = (panic::take_hook(), before.clone());
        panic::set_hook(Box::new(move |info| {
            restore(&at_panic);
            hook(info);
        }));
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Flush, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore(&self.before);
    }
}

fn restore(before: &Termios) {
    // A terminal that is gone needs no restoring.
    let _ = tcsetattr(stdin(), OptionalActions::Drain, before);
}
