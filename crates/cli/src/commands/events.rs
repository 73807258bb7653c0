//! `nestling events`: what happens, live.

use clap::Args;
use nestling_api::v1;

use crate::{
    failure::Result,
    session::Session,
    text::{self, clean},
};

/// Show what happens on a host, live
#[derive(Debug, Args)]
pub struct Events {
    /// Also what happens inside its machines, at all levels
    #[arg(long)]
    nested: bool,
}

impl Events {
    pub async fn run(self, session: &Session) -> Result {
        let mut events = session.client().await?.events(self.nested).await?;
        let mut last = None;
        while let Some(event) = events.next().await {
            let event = event?;
            if event.path.is_none() {
                let missed = last.map_or(0, |last: u64| event.sequence.saturating_sub(last + 1));
                if missed > 0 {
                    session.printer.warning(&format!("{missed} events were missed"));
                }
                last = Some(event.sequence);
            }
            session.printer.show(&event, line)?;
        }
        session.printer.talk("the node has stopped");
        Ok(())
    }
}

fn line(event: &v1::Event) -> String {
    let path = event.path.as_ref().map(|path| format!("{path}/")).unwrap_or_default();
    let said =
        format!("{}  {}  {path}{}: {}", text::time(event.at_ms), event.kind, event.object, event.message);
    format!("{}\n", clean(&said).replace('\n', " "))
}
