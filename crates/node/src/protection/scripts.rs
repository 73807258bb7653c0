//! Programs of the host that are run around a job's machines.
//!
//! A program is started as it is given, with no shell in between, as the node's own user, in a process group of its own and with an
//! environment that has nothing of the node's but where programs are. It is ended, with all that it started, when its time is up.
//! What it says goes into the run's log, as much as is of use. Programs after the machines run whatever became of those, and also
//! when the run was ended: what the ones before made ready is to be put back. Only a node that ends waits for none.

use std::{process::Stdio, sync::Arc, time::Duration};

use nestling_model::protection::{Command, Job, OnFailure, Run, Script};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Child,
    time::timeout,
};

use super::runs::Entry;
use crate::node::Shared;

/// What is kept of what a program says.
const OUTPUT_BYTES_MAX: usize = 16 << 10;
/// For what a program wrote last to be read, once it has ended: what it left behind may hold its output for ever.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// For a program that was killed to be gone.
const DEATH_PATIENCE: Duration = Duration::from_secs(10);

/// When programs are run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Before,
    After,
}

/// Runs what comes before the first machine. An error: there is to be no backup, and why.
pub async fn before(node: &Arc<Shared>, entry: &Entry, job: &Job) -> Result<(), String> {
    let is_over = || entry.cancel.is_cancelled() || node.stopping.is_cancelled();
    for script in &job.policy.scripts_before {
        let ran = if is_over() { Ok(()) } else { run_script(node, entry, script, When::Before).await };
        if is_over() {
            // A program that was ended with the run is not why there is no backup.
            return Ok(());
        }
        ran?;
    }
    Ok(())
}

/// Runs what comes after the last machine, all of it. What fails and must not is the reason of the run. False: it was cut off,
/// because the node ends.
pub async fn after(node: &Arc<Shared>, entry: &Entry, job: &Job) -> bool {
    for script in &job.policy.scripts_after {
        if node.stopping.is_cancelled() {
            return false;
        }
        let ran = run_script(node, entry, script, When::After).await;
        if node.stopping.is_cancelled() {
            // A program that was ended with the node has not failed.
            return false;
        }
        if let Err(why) = ran {
            entry.change(&node.keeper, |run| run.reason = Some(why.into())).await;
        }
    }
    true
}

async fn run_script(node: &Arc<Shared>, entry: &Entry, script: &Script, when: When) -> Result<(), String> {
    let program = &script.command.program;
    entry.log.say(&format!("runs {program} on the host"));
    let environment = environment(node, &entry.run(), when);
    let over = async {
        tokio::select! {
            () = node.stopping.cancelled() => {}
            () = entry.cancel.cancelled(), if when == When::Before => {}
        }
    };
    let ended = run_program(&script.command, &environment, over).await;
    if !ended.output.is_empty() {
        entry.log.say(&ended.output);
    }
    let Err(why) = ended.result else { return Ok(()) };
    let why = format!("the program {program} {why}");
    entry.log.say(&why);
    match script.on_failure {
        OnFailure::Fail => Err(why),
        OnFailure::Warn => {
            entry.change(&node.keeper, |run| run.warnings.push(why)).await;
            Ok(())
        }
    }
}

fn environment(node: &Shared, run: &Run, when: When) -> Vec<(&'static str, String)> {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    let known = node.protection.repositories.get(run.repository);
    let repository = known.map(|known| known.repository.name.to_string()).unwrap_or_default();
    let mut environment = vec![
        ("PATH", path),
        ("NESTLING_HOME", node.home.root().display().to_string()),
        ("NESTLING_JOB", run.job_name.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("NESTLING_JOB_ID", run.job.map(|job| job.0.to_string()).unwrap_or_default()),
        ("NESTLING_RUN", run.number.to_string()),
        ("NESTLING_RUN_ID", run.id.0.to_string()),
        ("NESTLING_REPOSITORY", repository),
    ];
    if when == When::After {
        let good = run.machines.iter().filter(|machine| machine.state.is_success()).count();
        environment.push(("NESTLING_MACHINES_SAVED", good.to_string()));
        environment.push(("NESTLING_MACHINES_FAILED", (run.machines.len() - good).to_string()));
    }
    environment
}

/// What came of a program.
pub struct Ended {
    pub output: String,
    /// Why it failed, as the end of a sentence.
    pub result: Result<(), String>,
}

/// Runs a program of the host to its end, or until it is wanted no more.
pub async fn run_program(
    command: &Command,
    environment: &[(&'static str, String)],
    over: impl Future<Output = ()>,
) -> Ended {
    let mut child = match start(command, environment) {
        Ok(child) => child,
        Err(error) => {
            return Ended { output: String::new(), result: Err(format!("could not be started: {error}")) };
        }
    };
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let said = [listen(child.stdout.take()), listen(child.stderr.take())];
    let limit = Duration::from_secs(command.seconds_max.into());
    let result = tokio::select! {
        ended = timeout(limit, child.wait()) => match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("failed: {status}")),
            Ok(Err(error)) => Err(format!("was lost: {error}")),
            Err(_) => Err(format!("was ended, since it took longer than {} seconds", limit.as_secs())),
        },
        () = over => Err("was ended with the run".to_owned()),
    };
    // Whatever it left in its group goes with it, so that the next run finds none of it.
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
    }
    if timeout(DEATH_PATIENCE, child.wait()).await.is_err() {
        tracing::warn!(program = command.program, "a program that was killed is not gone");
    }
    let mut output = String::new();
    for said in said {
        let abort = said.abort_handle();
        match timeout(LAST_WORDS, said).await {
            Ok(said) => output.push_str(&String::from_utf8_lossy(&said.unwrap_or_default())),
            Err(_) => abort.abort(),
        }
    }
    Ended { output, result }
}

fn start(command: &Command, environment: &[(&'static str, String)]) -> std::io::Result<Child> {
    tokio::process::Command::new(&command.program)
        .args(&command.arguments)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Reads all that is said, and keeps the beginning.
fn listen(pipe: Option<impl AsyncRead + Send + Unpin + 'static>) -> tokio::task::JoinHandle<Vec<u8>> {
    tokio::spawn(async move {
        let mut kept = Vec::new();
        let Some(mut pipe) = pipe else { return kept };
        let mut buffer = [0; 4096];
        while let Ok(count) = pipe.read(&mut buffer).await {
            if count == 0 {
                break;
            }
            let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
            kept.extend(buffer.iter().take(count.min(room)));
        }
        kept
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(line: &str, seconds_max: u32) -> Command {
        let arguments = vec!["-c".to_owned(), line.to_owned()];
        Command { program: "/bin/sh".to_owned(), arguments, seconds_max }
    }

    async fn ran(line: &str, seconds_max: u32) -> Ended {
        let environment = [("NESTLING_JOB", "nightly".to_owned())];
        run_program(&shell(line, seconds_max), &environment, std::future::pending()).await
    }

    #[tokio::test]
    async fn a_program_knows_its_job_and_nothing_of_the_node() {
        let ended = ran("echo $NESTLING_JOB; env | grep -v -e NESTLING -e PWD -e _=; exit 3", 30).await;
        assert_eq!(ended.output, "nightly\n");
        assert_eq!(ended.result.unwrap_err(), "failed: exit status: 3");
        let missing = Command { program: "/no/such".to_owned(), ..shell("", 1) };
        let ended = run_program(&missing, &[], std::future::pending()).await;
        assert!(ended.result.unwrap_err().starts_with("could not be started"));
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_ended_with_all_that_it_started() {
        let began = Instant::now();
        let ended = ran("echo first; sleep 300 & echo $!; wait", 1).await;
        assert!(ended.result.unwrap_err().contains("longer than 1 seconds"));
        let (first, pid) = ended.output.split_once('\n').unwrap();
        assert_eq!(first, "first");
        assert!(began.elapsed() < Duration::from_secs(60));
        let status = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        assert!(status.is_empty() || status.contains(") Z "), "{status}");
    }

    #[tokio::test]
    async fn a_program_that_says_too_much_is_cut_and_one_that_is_wanted_no_more_is_ended() {
        let ended = ran("head -c 1000000 /dev/zero | tr '\\0' x", 30).await;
        assert_eq!((ended.result, ended.output.len()), (Ok(()), OUTPUT_BYTES_MAX));
        let ended = run_program(&shell("sleep 300", 300), &[], std::future::ready(())).await;
        assert_eq!(ended.result.unwrap_err(), "was ended with the run");
    }
}
