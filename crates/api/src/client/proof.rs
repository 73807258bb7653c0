use bytes::Bytes;
use http::Method;

use super::{Client, Result, json_body, segment};
use crate::v1::{NewProof, Proof};

const NOTHING: Option<&()> = None;

/// Recovery points booted as a test.
impl Client {
    pub async fn proofs(&self) -> Result<Vec<Proof>> {
        self.json(Method::GET, "proofs", NOTHING).await
    }

    /// Answers when the proof is written down; it goes on by itself.
    pub async fn start_proof(&self, new: &NewProof) -> Result<Proof> {
        self.json(Method::POST, "proofs", Some(new)).await
    }

    pub async fn proof(&self, proof: &str) -> Result<Proof> {
        self.json(Method::GET, &format!("proofs/{}", segment(proof)), NOTHING).await
    }

    /// The picture of a point's screen, as PNG; points count from 0.
    pub async fn proof_screen(&self, proof: &str, point: usize) -> Result<Bytes> {
        let path = format!("proofs/{}/screens/{point}", segment(proof));
        let limits = self.limits(&Method::GET, &path);
        self.whole(Method::GET, &path, json_body(&path, NOTHING)?, limits).await
    }

    pub async fn cancel_proof(&self, proof: &str) -> Result<Proof> {
        self.json(Method::POST, &format!("proofs/{}/cancel", segment(proof)), NOTHING).await
    }
}
