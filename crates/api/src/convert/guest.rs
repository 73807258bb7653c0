//! What is done in guests around a backup.

use nestling_model::protection as model;
use nestling_node::NodeError;

use crate::v1;

/// How long a program may take that nothing else is said of.
const SECONDS: u32 = 300;

impl From<v1::Program> for model::Command {
    fn from(program: v1::Program) -> Self {
        let v1::Program { program, arguments, seconds_max } = program;
        Self { program, arguments, seconds_max: seconds_max.unwrap_or(SECONDS) }
    }
}

impl From<model::Command> for v1::Program {
    fn from(command: model::Command) -> Self {
        let model::Command { program, arguments, seconds_max } = command;
        Self { program, arguments, seconds_max: Some(seconds_max) }
    }
}

fn commands(programs: Vec<v1::Program>) -> Vec<model::Command> {
    programs.into_iter().map(Into::into).collect()
}

pub(super) fn application(
    steps: v1::GuestSteps,
    freeze: model::Freeze,
    on_failure: model::OnFailure,
) -> Result<model::Consistency, NodeError> {
    let v1::GuestSteps { applications, cut_logs, postgresql_archive, before, after, after_durable } = steps;
    let named = |application: &v1::GuestApplication| match application {
        v1::GuestApplication::PostgreSql => {
            model::Application::PostgreSql { cut_logs, cut_archive: postgresql_archive.clone() }
        }
        v1::GuestApplication::MariaDb => model::Application::MariaDb { cut_logs },
    };
    let has_postgresql =
        applications.iter().flatten().any(|application| *application == v1::GuestApplication::PostgreSql);
    if postgresql_archive.is_some() && !(has_postgresql && cut_logs) {
        return Err(NodeError::invalid(
            "a directory of archived logs is given together with PostgreSQL, named, and the wish to cut logs",
        ));
    }
    let applications = match &applications {
        None => vec![model::Application::Found { cut_logs }],
        Some(all) => all.iter().map(named).collect(),
    };
    Ok(model::Consistency::Application {
        freeze,
        applications,
        before: commands(before),
        after: commands(after),
        after_durable: commands(after_durable),
        on_failure,
    })
}

/// `None` where nothing is done in the guest but the freeze.
pub(super) fn shown(consistency: &model::Consistency) -> Option<v1::GuestSteps> {
    let model::Consistency::Application { applications, before, after, after_durable, .. } = consistency
    else {
        return None;
    };
    let programs = |commands: &[model::Command]| commands.iter().cloned().map(Into::into).collect();
    let mut steps = v1::GuestSteps {
        applications: Some(Vec::new()),
        before: programs(before),
        after: programs(after),
        after_durable: programs(after_durable),
        ..v1::GuestSteps::default()
    };
    for application in applications {
        let named = match application {
            model::Application::PostgreSql { cut_logs, cut_archive } => {
                steps.cut_logs |= *cut_logs || cut_archive.is_some();
                steps.postgresql_archive.clone_from(cut_archive);
                v1::GuestApplication::PostgreSql
            }
            model::Application::MariaDb { cut_logs } => {
                steps.cut_logs |= cut_logs;
                v1::GuestApplication::MariaDb
            }
            model::Application::Found { cut_logs } => {
                steps.cut_logs |= cut_logs;
                steps.applications = None;
                continue;
            }
            // No job has it: it is refused.
            model::Application::Vss { .. } => continue,
        };
        steps.applications.get_or_insert_with(Vec::new).push(named);
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_in_a_guest_is_shown_as_it_was_asked_for() {
        let sh =
            v1::Program { program: "/bin/sh".into(), arguments: vec!["-c".into()], seconds_max: Some(9) };
        let all = vec![v1::GuestApplication::PostgreSql, v1::GuestApplication::MariaDb];
        let named = v1::GuestSteps {
            applications: Some(all),
            cut_logs: true,
            postgresql_archive: Some("/archive".into()),
            before: vec![sh.clone()],
            after_durable: vec![sh],
            ..v1::GuestSteps::default()
        };
        let found = v1::GuestSteps { cut_logs: true, ..v1::GuestSteps::default() };
        for steps in [named, found, v1::GuestSteps::default()] {
            let freeze = model::Freeze::default();
            let consistency = application(steps.clone(), freeze, model::OnFailure::Warn).unwrap();
            assert_eq!(consistency.validate(), Ok(()));
            assert_eq!(shown(&consistency), Some(steps));
        }
        let astray = v1::GuestSteps { postgresql_archive: Some("/a".into()), ..v1::GuestSteps::default() };
        assert!(application(astray, model::Freeze::default(), model::OnFailure::Warn).is_err());
    }
}
