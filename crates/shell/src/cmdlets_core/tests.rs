use crate::frame::Registry;
use crate::testing::run;
use std::sync::Arc;

/// Examples in the help are run, so that none is wrong.
#[test]
fn every_example_runs() {
    let registry: Registry<()> = Registry::with_core();
    for cmdlet in registry.cmdlets() {
        assert!(!cmdlet.examples.is_empty(), "{} has no example", cmdlet.name);
        for example in cmdlet.examples {
            let ran = run(example.code);
            assert!(!ran.outcome.had_errors, "{}:\n{}", example.code, ran.talk);
        }
    }
    let _ = Arc::new(registry);
}
