//! Those who are told how a run went, or that an objective is missed: webhooks, which get an object in JSON, and people, who
//! get a mail.
//!
//! A notice is sent when the run has ended, so it keeps nothing waiting, and one that cannot be sent is told in the run's log and
//! as an event. That it is owed is written down with the run's end, so that the next node sends what the end of this one cut off.
//! What the other side answers is not read, and no redirection is followed.

use std::{sync::Arc, time::Duration};

use http::{Request, header};
use http_body_util::Full;
use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use nestling_model::{
    EventKind,
    protection::{Job, MachineRun, Message, Notice, NoticeWhen, Recipient, Run, RunState, WebUrl},
};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

use super::{
    mail::{self, Letter},
    objectives::Missed,
    runs::Entry,
};
use crate::node::Shared;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);
/// What is told of at most; how many there are is told in any case.
const MACHINES_MAX: usize = 200;

/// The same for programs and for people.
struct News {
    object: Value,
    letter: Letter,
}

/// Tells how a run of a job has ended.
pub async fn tell_of_run(node: &Arc<Shared>, entry: &Entry, job: &Job) {
    let run = entry.run();
    let wanted = |when: &NoticeWhen| match run.state {
        RunState::Succeeded => when.success,
        RunState::SucceededWithWarnings => when.warnings,
        RunState::Failed | RunState::Interrupted => when.failure,
        RunState::Cancelled | RunState::Waiting | RunState::Running => false,
    };
    let repository = node.protection.repositories.get(run.repository);
    let repository =
        repository.map_or_else(|| run.repository.0.to_string(), |known| known.repository.name.into());
    let letter = mail::ended(&crate::facts::host_name(), job, &run, &repository);
    let failed = tell(node, job, wanted, &News { object: ended(node, job, &run), letter }).await;
    if node.stopping.is_cancelled() || !run.untold {
        // The next node tells it, to some perhaps twice: better than never.
        return;
    }
    failed.iter().for_each(|why| entry.log.say(why));
    let told = |run: &mut Run| {
        failed.into_iter().for_each(|why| run.warnings.push(why));
        run.untold = false;
    };
    entry.change(&node.keeper, told).await;
}

/// Tells that machines of a job have no recovery point that is young enough.
pub async fn tell_of_missed(node: &Arc<Shared>, job: &Job, missed: &[Missed]) {
    let letter = mail::late(&crate::facts::host_name(), job, missed);
    tell(node, job, |when| when.missed_objective, &News { object: late(node, job, missed), letter }).await;
}

/// Tells all who want to know. Why it failed, for each with whom it did.
async fn tell(
    node: &Arc<Shared>,
    job: &Job,
    wanted: impl Fn(&NoticeWhen) -> bool,
    news: &News,
) -> Vec<String> {
    let mut failed = Vec::new();
    for Notice { to, .. } in job.policy.notices.iter().filter(|notice| wanted(&notice.when)) {
        match to {
            Recipient::Webhook { url, secret: None } => {
                let told = insist(node, url, &news.object).await;
                failed.extend(told.err().map(|why| format!("{} could not be told: {why}", url.server())));
            }
            // A job that names one is refused when it is made.
            Recipient::Webhook { secret: Some(_), .. } => {}
            Recipient::Mail { addresses } => failed.extend(node.mail(&news.letter, addresses).await),
        }
    }
    for why in &failed {
        node.events.tell(EventKind::Warning, format!("job {}", job.name), why.as_str());
    }
    failed
}

async fn insist(node: &Shared, url: &WebUrl, message: &Value) -> Result<(), String> {
    let mut attempt = 1;
    loop {
        let sent = tokio::select! {
            sent = tokio::time::timeout(ANSWER_TIMEOUT, post(url, message)) => {
                sent.unwrap_or_else(|_| Err(format!("no answer within {} seconds", ANSWER_TIMEOUT.as_secs())))
            }
            () = node.stopping.cancelled() => return Err("the node stopped".to_owned()),
        };
        if sent.is_ok() || attempt == ATTEMPTS {
            return sent;
        }
        attempt += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn post(url: &WebUrl, message: &Value) -> Result<(), String> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    let is_plain = url.as_str().starts_with("http://");
    let tls = HttpsConnectorBuilder::new()
        .with_tls_config(tls(is_plain)?)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    let client = Client::builder(TokioExecutor::new()).build(tls);
    let request = Request::post(url.as_str())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, "nestling")
        .body(Full::new(bytes::Bytes::from(message.to_string())))
        .map_err(|error| error.to_string())?;
    let answer = client.request(request).await.map_err(|error| whole(&error))?;
    if answer.status().is_success() { Ok(()) } else { Err(format!("it answered {}", answer.status())) }
}

fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn tls(trusts_none: bool) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if trusts_none {
        builder.with_root_certificates(RootCertStore::empty())
    } else {
        builder.with_native_roots().map_err(|error| error.to_string())?
    };
    Ok(builder.with_no_client_auth())
}

fn about(node: &Shared, job: &Job, event: &str) -> Value {
    json!({
        "event": event,
        "host": crate::facts::host_name(),
        "home": node.home.root(),
        "job": job.name.as_str(),
        "job_id": job.id.0,
    })
}

fn ended(node: &Shared, job: &Job, run: &Run) -> Value {
    let mut message = about(node, job, "run-ended");
    let sum = run.totals();
    let text = |reason: &Option<Message>| reason.as_ref().map(|reason| reason.as_str().to_owned());
    let machine = |machine: &MachineRun| {
        json!({
            "vm": machine.path.to_string(),
            "vm_id": machine.id.0,
            "state": machine.state.as_str(),
            "reason": text(&machine.reason),
            "point": machine.point.map(|point| point.to_string()),
        })
    };
    let warnings: Vec<&str> = run.warnings.messages().iter().map(Message::as_str).collect();
    let more = json!({
        "run": run.number,
        "run_id": run.id.0,
        "state": run.state.as_str(),
        "reason": text(&run.reason),
        "warnings": warnings,
        "started_at_ms": run.started_at_ms,
        "ended_at_ms": run.ended_at_ms,
        "read_bytes": sum.read_bytes,
        "new_bytes": sum.new_bytes,
        "stored_bytes": sum.stored_bytes,
        "machine_count": run.machines.len(),
        "machines": mail::worst_first(&run.machines).into_iter().take(MACHINES_MAX).map(machine).collect::<Vec<_>>(),
    });
    extend(&mut message, more);
    message
}

fn late(node: &Shared, job: &Job, missed: &[Missed]) -> Value {
    let mut message = about(node, job, "objective-missed");
    let machine = |missed: &Missed| {
        json!({
            "vm": missed.path.to_string(),
            "vm_id": missed.vm.0,
            "newest_point_ms": missed.newest_ms,
            "late_ms": missed.late_ms,
        })
    };
    let more = json!({
        "machine_count": missed.len(),
        "machines": missed.iter().take(MACHINES_MAX).map(machine).collect::<Vec<_>>(),
    });
    extend(&mut message, more);
    message
}

fn extend(message: &mut Value, more: Value) {
    if let (Value::Object(message), Value::Object(more)) = (message, more) {
        message.extend(more);
    }
}
