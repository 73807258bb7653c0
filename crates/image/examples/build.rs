//! Builds an image without a node: `cargo run -p nestling-image --example build -- STORE RECIPE [NESTLING]`.

#![expect(clippy::print_stdout, reason = "a program for use by hand")]

use nestling_image::{BuildOptions, ImageStore, Progress, Recipe};

struct Printer;

impl Progress for Printer {
    fn step(&self, done: u32, total: u32, text: &str) {
        println!("{}/{total} {text}", done + 1);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(store), Some(recipe)) = (arguments.next(), arguments.next()) else {
        return Err("usage: build STORE RECIPE [NESTLING]".into());
    };
    let recipe = Recipe::from_name(&recipe).ok_or("no such recipe")?;
    let options = BuildOptions { nestling_binary: arguments.next().map(Into::into), force: false };
    let image = ImageStore::open(store)?.build(recipe, &options, &Printer)?;
    println!("{image:#?}");
    Ok(())
}
