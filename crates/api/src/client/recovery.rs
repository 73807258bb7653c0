use http::Method;

use super::{Client, Result, segment};
use crate::v1::{NewRecovery, Recovery};

const NOTHING: Option<&()> = None;

/// Recoveries of machines.
impl Client {
    pub async fn recoveries(&self) -> Result<Vec<Recovery>> {
        self.json(Method::GET, "recoveries", NOTHING).await
    }

    /// Answers when the recovery is written down; it goes on by itself.
    pub async fn start_recovery(&self, new: &NewRecovery) -> Result<Recovery> {
        self.json(Method::POST, "recoveries", Some(new)).await
    }

    pub async fn recovery(&self, recovery: &str) -> Result<Recovery> {
        self.json(Method::GET, &format!("recoveries/{}", segment(recovery)), NOTHING).await
    }

    pub async fn cancel_recovery(&self, recovery: &str) -> Result<Recovery> {
        self.json(Method::POST, &format!("recoveries/{}/cancel", segment(recovery)), NOTHING).await
    }
}
