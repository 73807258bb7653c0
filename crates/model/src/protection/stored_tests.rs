//! Documents of protection that earlier versions stored are read, with all that they say.
//!
//! The last of `tests/stored/protection-*.json` is what this version stores. They are never changed: a version that stores
//! more adds a file beside them.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    Job, JobPolicy, Known, MailServer, OnFailure, RecoveryPoint, Repository, RepositoryId, Run,
    consistency::Consistency,
};

const VERSIONS: &[&str] = &[
    include_str!("../../tests/stored/protection-1.json"),
    include_str!("../../tests/stored/protection-2.json"),
    include_str!("../../tests/stored/protection-3.json"),
    include_str!("../../tests/stored/protection-4.json"),
];

#[derive(Deserialize)]
struct Row {
    kind: String,
    body: Value,
}

/// Whether a document that was read says all that was written, under the same names.
fn says_all(written: &Value, read: &Value) -> bool {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => {
            written.iter().all(|(name, value)| read.get(name).is_some_and(|r| says_all(value, r)))
        }
        (Value::Array(written), Value::Array(read)) => {
            written.len() == read.len() && written.iter().zip(read).all(|(w, r)| says_all(w, r))
        }
        _ => written == read,
    }
}

fn read<D: DeserializeOwned + Serialize>(rows: &[Row], kind: &str) -> Vec<D> {
    let of_kind: Vec<&Row> = rows.iter().filter(|row| row.kind == kind).collect();
    assert!(!of_kind.is_empty(), "{kind}");
    of_kind
        .iter()
        .map(|row| {
            let document: D =
                serde_json::from_value(row.body.clone()).unwrap_or_else(|e| panic!("{kind}: {e}"));
            let now = serde_json::to_value(&document).unwrap();
            assert!(says_all(&row.body, &now), "{kind}\nwas {}\nis  {now}", row.body);
            document
        })
        .collect()
}

#[test]
fn documents_of_older_versions_are_read_whole() {
    for version in VERSIONS {
        let rows: Vec<Row> = serde_json::from_str(version).unwrap();
        let repositories: Vec<Repository> = read(&rows, "repository");
        let jobs: Vec<Job> = read(&rows, "job");
        let known = Known { jobs: &jobs, repositories: &repositories };
        for job in &jobs {
            assert_eq!(job.validate(&known), Ok(()), "{}", job.name);
        }
        for repository in &repositories {
            assert_eq!(repository.validate(&repositories), Ok(()));
        }
        for run in read::<Run>(&rows, "run") {
            assert_eq!(run.validate(), Ok(()));
        }
        for server in read::<MailServer>(&rows, "mail-server") {
            assert_eq!(server.validate(), Ok(()));
        }
        read::<RecoveryPoint>(&rows, "point");
    }
}

/// What a document does not say has the value that does no harm.
#[test]
fn what_is_not_said_has_a_default() {
    let repository = "00000000-0000-4000-8000-000000000001";
    let job = json!({
        "id": "00000000-0000-4000-8000-000000000011",
        "name": "short",
        "selection": {"include": ["*"]},
        "policy": {"repository": repository},
    });
    let job: Job = serde_json::from_value(job).unwrap();
    assert!(job.enabled && job.schedule.is_none());
    let id: RepositoryId = serde_json::from_value(json!(repository)).unwrap();
    assert_eq!(job.policy, JobPolicy::new(id));
    assert!(matches!(job.policy.consistency, Consistency::FileSystem { on_failure: OnFailure::Warn, .. }));
}
