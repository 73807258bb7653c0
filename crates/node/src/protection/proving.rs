//! What a job saved is booted as a test, if the job wants that: each new point, or each machine's when its time has come again.
//!
//! A point that does not boot makes the run fail, so that whoever is told of failures is told of it. The point itself stays: it
//! may be all that there is.

use std::sync::Arc;

use nestling_model::{
    VmId,
    protection::{Job, PointId, PointProof, Proving},
};
use nestling_vault::Point;

use super::{conduct::Order, repositories::answered, runs::Entry};
use crate::{Node, error::Result, node::Shared, proof::Cause};

/// Proves what a run has saved.
pub async fn prove(node: &Arc<Shared>, entry: &Entry, order: &Order, job: &Job) {
    let Some(proving) = &job.policy.proving else { return };
    if entry.cancel.is_cancelled() || node.stopping.is_cancelled() {
        return;
    }
    if let Err(error) = prove_saved(node, entry, order, job, proving).await {
        fail(node, entry, format!("what was saved is not proven: {}", error.message())).await;
    }
}

async fn fail(node: &Shared, entry: &Entry, why: String) {
    entry.log.say(&why);
    entry.change(&node.keeper, |run| run.reason = Some(why.into())).await;
}

async fn prove_saved(
    node: &Arc<Shared>,
    entry: &Entry,
    order: &Order,
    job: &Job,
    proving: &Proving,
) -> Result<()> {
    let points = due_points(node, entry, order, proving).await?;
    if points.is_empty() {
        return Ok(());
    }
    let cause = Cause {
        text: format!("job {}, run {}", job.name, entry.number()).into(),
        job: Some(job.clone()),
        signs: proving.signs.clone(),
        parallel: order.parallel,
    };
    let proof = Node::of(Arc::clone(node)).begin_proof(order.known.clone(), points, cause).await?;
    entry.log.say(&format!(
        "proof {} begins, of {} recovery points",
        proof.number(),
        proof.run().points.len()
    ));
    let tested: Vec<PointId> = proof.run().points.iter().map(|point| point.point).collect();
    let machines = entry.run().machines;
    for (number, machine) in machines.iter().enumerate() {
        if machine.point.is_some_and(|point| tested.contains(&point)) {
            entry.does(number, &machine.path, "testing its recovery point");
        }
    }
    tokio::select! {
        () = proof.ended.cancelled() => {}
        () = entry.cancel.cancelled() => {
            proof.cancel.cancel();
            proof.ended.cancelled().await;
        }
    }
    (0..machines.len()).for_each(|number| entry.does_nothing(number));
    let done = proof.run();
    done.points.iter().for_each(|point| entry.log.say(&line(point)));
    let failed = done.points.iter().filter(|point| point.reason.is_some());
    let failed: Vec<String> = failed.map(|point| point.machine.to_string()).collect();
    if !failed.is_empty() {
        let number = done.number;
        fail(
            node,
            entry,
            format!("proof {number}: the recovery points of {} do not boot", failed.join(", ")),
        )
        .await;
    }
    Ok(())
}

fn line(point: &PointProof) -> String {
    let machine = &point.machine;
    match (&point.seen, &point.reason, point.ready_ms) {
        (Some(seen), _, Some(ms)) => {
            format!("{machine}: its recovery point boots, after {}.{:03} s: {seen}", ms / 1000, ms % 1000)
        }
        (_, Some(reason), _) => format!("{machine}: its recovery point does not boot: {reason}"),
        _ => format!("{machine}: its recovery point is not proven: {}", point.state),
    }
}

/// The points of this run that are to be proven, in the order of its machines.
async fn due_points(
    node: &Arc<Shared>,
    entry: &Entry,
    order: &Order,
    proving: &Proving,
) -> Result<Vec<Point>> {
    let (known, now_ms) = (&order.known, node.now_ms());
    let is_due = |vm: VmId| proving.is_due(node.proof.book.last_ms(known.repository.id, vm), now_ms);
    let machines = entry.run().machines;
    let wanted: Vec<PointId> =
        machines.iter().filter(|machine| is_due(machine.id)).filter_map(|machine| machine.point).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let (repositories, of) = (Arc::clone(&node.protection.repositories), known.clone());
    answered(known, move || {
        repositories.look(&of, |vault, catalogue| {
            let listed = |id: &PointId| {
                catalogue.newest_first().find(|listed| PointId::from_bytes(listed.id().0) == *id)
            };
            wanted.iter().filter_map(listed).map(|listed| listed.read(vault)).collect()
        })
    })
    .await
}
