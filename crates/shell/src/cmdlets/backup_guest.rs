//! What backup cmdlets say of a guest's applications.

use nestling_api::v1;

use super::common::Call;
use crate::frame::{EnumType, Kind, Parameter};

const APPLICATIONS: EnumType =
    EnumType { name: "Nestling.VMGuestApplication", members: &[("PostgreSql", 0), ("MariaDb", 1)] };

pub const APPLICATION_CONSISTENT: Parameter = Parameter::switch(
    "ApplicationConsistent",
    "Databases in the guests are made ready, and file systems held still.",
);
pub const APPLICATION: Parameter = Parameter::new(
    "Application",
    Kind::Enums(&APPLICATIONS),
    "Databases that must run there; those that are found there when absent.",
);
pub const CUT_LOGS: Parameter = Parameter::switch(
    "CutLogs",
    "Once the point is durable, logs are removed there that it has made needless.",
);
pub const BEFORE: Parameter = Parameter::new(
    "GuestBefore",
    Kind::Strings,
    "Programs of the guest that run before the instant, split at blanks.",
);
pub const AFTER: Parameter = Parameter::new(
    "GuestAfter",
    Kind::Strings,
    "Programs of the guest that run after it, whatever became of it.",
);
pub const AFTER_DURABLE: Parameter = Parameter::new(
    "GuestAfterDurable",
    Kind::Strings,
    "Programs of the guest that run once the point is durable.",
);
pub const FAIL: Parameter = Parameter::switch(
    "FailIfInconsistent",
    "No backup at all when the guest cannot be treated so; else it is a warning.",
);

fn programs(call: &Call<'_>, parameter: &'static str) -> Vec<v1::Program> {
    call.texts(parameter).iter().map(|line| v1::Program::split(line, None)).collect()
}

/// `None`: the consistency of applications is not asked for.
pub fn steps(call: &Call<'_>) -> Option<v1::GuestSteps> {
    if !call.switch("ApplicationConsistent") {
        return None;
    }
    let application = |name: String| match name.as_str() {
        "PostgreSql" => v1::GuestApplication::PostgreSql,
        _ => v1::GuestApplication::MariaDb,
    };
    let named: Vec<_> = call.texts("Application").into_iter().map(application).collect();
    let (before, after, after_durable) =
        (programs(call, "GuestBefore"), programs(call, "GuestAfter"), programs(call, "GuestAfterDurable"));
    let cut_logs = call.switch("CutLogs");
    // Whoever names only programs of the guest wants nothing else done there.
    let has_programs = [&before, &after, &after_durable].iter().any(|programs| !programs.is_empty());
    let only_programs = has_programs && !cut_logs;
    Some(v1::GuestSteps {
        applications: (only_programs || !named.is_empty()).then_some(named),
        cut_logs,
        postgresql_archive: None,
        before,
        after,
        after_durable,
    })
}
