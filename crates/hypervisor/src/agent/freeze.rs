//! Holds a guest's file systems still for an instant, and lets them go again whatever happens.
//!
//! A guest that stays frozen is worse than a backup that is not made: every program that writes there hangs. So each freeze
//! is kept by a task of its own, which thaws when it is told to, when nobody is left to tell it, and when the time is up;
//! one freeze of a machine at a time. What dies with the whole node is thawed by [`Agent::thaw`] when the next one asks.
//!
//! The agent's word is not enough: after a freeze and after a thaw it is asked for the state, and a guest that let go by
//! itself (Windows does after ten seconds) is told from one that held.

use std::time::Duration;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedMutexGuard, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{ANSWER_BYTES_MAX, Agent, AgentError};

/// One try to thaw, before the connection is made anew.
const THAW_TRY: Duration = Duration::from_secs(10);
const THAW_PAUSE_FIRST: Duration = Duration::from_millis(100);
const THAW_PAUSE_LAST: Duration = Duration::from_secs(2);
/// For a thaw that nobody waits for: a guest that reboots has its agent back by then.
const THAW_UNASKED: Duration = Duration::from_secs(300);
/// For a freeze that failed to be undone, while its caller waits.
const UNDO: Duration = Duration::from_secs(60);
/// No guest has more file systems; a greater number is made up.
const FILE_SYSTEMS_MAX: u64 = 1 << 16;
/// Mount points that are given by name.
pub const MOUNTPOINTS_MAX: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("the guest did not freeze its file systems within {} seconds", within.as_secs_f32())]
    Slow { within: Duration },
    #[error(
        "the guest agent froze nothing; look whether the file systems that are asked for are mounted there"
    )]
    Nothing,
    #[error("the guest agent says that it froze {file_systems} file systems, and then that none is frozen")]
    Denied { file_systems: u64 },
    #[error("at most {MOUNTPOINTS_MAX} file systems can be frozen by name; {asked} were asked for")]
    TooMany { asked: usize },
    #[error(
        "the guest's file systems are still frozen after {tries} tries to thaw them in {} seconds ({why}); what writes there \
         hangs: thaw them in the guest (fsfreeze --unfreeze), or reset the virtual machine",
        within.as_secs()
    )]
    StillFrozen { tries: u32, within: Duration, why: String },
}

/// What the guest agent says of the file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FreezeStatus {
    Thawed,
    Frozen,
}

#[derive(Debug, Clone)]
pub struct FreezeRequest {
    /// Only these, by the guest's paths or drive letters; `None`: all that can be frozen.
    pub mountpoints: Option<Vec<String>>,
    /// For the guest to write out what it holds and stand still.
    pub within: Duration,
    /// Thawed after this, whoever still wants it frozen.
    pub hold_max: Duration,
}

/// A guest that holds still. Dropped, it is thawed without anybody waiting for it.
#[derive(Debug)]
pub struct Frozen {
    file_systems: u64,
    took: Duration,
    /// Told how long to try; dropping it means to thaw, too.
    thaw: Option<oneshot::Sender<Duration>>,
    kept: JoinHandle<Option<Result<Thawed, FreezeError>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thawed {
    /// By the agent's count.
    pub file_systems: u64,
    /// Whether they were frozen until now, as far as the guest tells: if not, what was captured is not consistent.
    pub held: bool,
    /// From the wish to thaw to its end.
    pub took: Duration,
    /// From the wish to freeze to the end of the thaw: as long as a program in the guest can have waited.
    pub frozen_for: Duration,
    pub tries: u32,
}

impl Frozen {
    /// By the agent's count.
    pub fn file_systems(&self) -> u64 {
        self.file_systems
    }

    /// From the wish to freeze to the agent's answer.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// Thaws, again and again until it is done or the time is up.
    pub async fn thaw(mut self, within: Duration) -> Result<Thawed, FreezeError> {
        if let Some(thaw) = self.thaw.take() {
            // Its time was up already, and the outcome is waiting.
            thaw.send(within).ok();
        }
        let lost = || FreezeError::StillFrozen { tries: 0, within, why: "its keeper is gone".to_owned() };
        (&mut self.kept).await.ok().flatten().unwrap_or_else(|| Err(lost()))
    }
}

impl Agent {
    /// Freezes file systems of the guest. When this fails, what was frozen is thawed again, or the error says that it is not.
    pub async fn freeze(&self, request: FreezeRequest) -> Result<Frozen, FreezeError> {
        if let Some(asked) = request.mountpoints.as_ref().map(Vec::len).filter(|n| *n > MOUNTPOINTS_MAX) {
            return Err(FreezeError::TooMany { asked });
        }
        let within = request.within;
        let turn = timeout(within, self.freezing.clone().lock_owned());
        let turn = turn.await.map_err(|_| FreezeError::Slow { within })?;
        let (begun, has_begun) = oneshot::channel();
        let (thaw, wish) = oneshot::channel();
        let kept = tokio::spawn(keep(self.clone(), request, turn, begun, wish));
        match has_begun.await {
            Ok(Ok(Begun { file_systems, took })) => Ok(Frozen { file_systems, took, thaw: Some(thaw), kept }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(FreezeError::Slow { within }),
        }
    }

    pub async fn freeze_status(&self, within: Duration) -> Result<FreezeStatus, AgentError> {
        self.ask_within("guest-fsfreeze-status", json!({}), within).await
    }

    /// Thaws what is frozen, whoever froze it: for a node that comes back to a guest of which it knows nothing.
    pub async fn thaw(&self, within: Duration) -> Result<Thawed, FreezeError> {
        let wished = Instant::now();
        let slow =
            || FreezeError::StillFrozen { tries: 0, within, why: "another freeze is under way".to_owned() };
        let _turn = timeout(within, self.freezing.lock()).await.map_err(|_| slow())?;
        Thawing { agent: self, began: wished, wished, within }.run().await
    }

    async fn ask_within<T: DeserializeOwned>(
        &self,
        command: &str,
        arguments: Value,
        within: Duration,
    ) -> Result<T, AgentError> {
        let asked = timeout(within, self.ask_for(command, arguments, within, ANSWER_BYTES_MAX)).await;
        asked.unwrap_or_else(|_| Err(AgentError::Timeout { command: command.to_owned(), after: within }))
    }

    /// Freezes; `sent` tells whether the guest may have begun.
    async fn freeze_now(&self, request: &FreezeRequest, sent: &mut bool) -> Result<u64, FreezeError> {
        let within = request.within;
        // Only what a node left that has died: an agent that is frozen refuses to freeze.
        if self.freeze_status(within).await? == FreezeStatus::Frozen {
            self.ask_within::<u64>("guest-fsfreeze-thaw", json!({}), within).await?;
        }
        let (command, arguments) = match &request.mountpoints {
            Some(mountpoints) => ("guest-fsfreeze-freeze-list", json!({"mountpoints": mountpoints})),
            None => ("guest-fsfreeze-freeze", json!({})),
        };
        *sent = true;
        let file_systems: u64 = self.ask_within(command, arguments, within).await?;
        match file_systems {
            0 => return Err(FreezeError::Nothing),
            1..=FILE_SYSTEMS_MAX => {}
            _ => {
                let why = format!("it says that it froze {file_systems} file systems");
                return Err(AgentError::Nonsense { command: command.to_owned(), why }.into());
            }
        }
        match self.freeze_status(within).await? {
            FreezeStatus::Frozen => Ok(file_systems),
            FreezeStatus::Thawed => Err(FreezeError::Denied { file_systems }),
        }
    }
}

struct Begun {
    file_systems: u64,
    took: Duration,
}

/// One freeze from its beginning to its end, which is `None` if it never was. Never given up: it is a task of its own.
async fn keep(
    agent: Agent,
    request: FreezeRequest,
    _turn: OwnedMutexGuard<()>,
    begun: oneshot::Sender<Result<Begun, FreezeError>>,
    wish: oneshot::Receiver<Duration>,
) -> Option<Result<Thawed, FreezeError>> {
    let began = Instant::now();
    let thawing = |within| Thawing { agent: &agent, began, wished: Instant::now(), within };
    let mut sent = false;
    let frozen = timeout(request.within, agent.freeze_now(&request, &mut sent)).await;
    let frozen = frozen.unwrap_or(Err(FreezeError::Slow { within: request.within }));
    let told = match frozen {
        Ok(file_systems) => begun.send(Ok(Begun { file_systems, took: began.elapsed() })),
        Err(error) => {
            // It may be freezing still.
            let undone = if sent { thawing(UNDO).run().await.err() } else { None };
            begun.send(Err(undone.unwrap_or(error))).ok();
            return None;
        }
    };
    let wish = if told.is_ok() { timeout(request.hold_max, wish).await } else { Ok(Ok(THAW_UNASKED)) };
    let thawed = match wish {
        // Without anybody left to wish, it is thawed all the same.
        Ok(wish) => thawing(wish.unwrap_or(THAW_UNASKED)).run().await,
        Err(_) => {
            tracing::warn!(
                seconds = request.hold_max.as_secs_f32(),
                "a guest was frozen too long and is thawed"
            );
            thawing(THAW_UNASKED).run().await.map(|thawed| Thawed { held: false, ..thawed })
        }
    };
    if let Err(error) = &thawed {
        tracing::error!(%error, "a guest stays frozen");
    }
    Some(thawed)
}

struct Thawing<'a> {
    agent: &'a Agent,
    began: Instant,
    wished: Instant,
    within: Duration,
}

/// What is known of the freeze before a wish to thaw has reached the agent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Unknown,
    Yes,
    No,
}

impl Thawing<'_> {
    fn done(&self, file_systems: u64, held: bool, tries: u32) -> Thawed {
        let (took, frozen_for) = (self.wished.elapsed(), self.began.elapsed());
        Thawed { file_systems, held, took, frozen_for, tries }
    }

    async fn run(&self) -> Result<Thawed, FreezeError> {
        let deadline = self.wished + self.within;
        let (mut tries, mut pause, mut held) = (0, THAW_PAUSE_FIRST, Held::Unknown);
        loop {
            tries += 1;
            let until = deadline.min(Instant::now() + THAW_TRY);
            let why = match timeout_at(until, self.once(&mut held)).await {
                Ok(Ok(file_systems)) => return Ok(self.done(file_systems, held == Held::Yes, tries)),
                Ok(Err(why)) => why,
                Err(_) => "the guest agent does not answer".to_owned(),
            };
            if Instant::now() + pause >= deadline {
                return Err(FreezeError::StillFrozen { tries, within: self.within, why });
            }
            sleep(pause).await;
            pause = (pause * 2).min(THAW_PAUSE_LAST);
        }
    }

    /// Asks for the thaw in any case: an agent that was started anew may have forgotten that it froze.
    async fn once(&self, held: &mut Held) -> Result<u64, String> {
        let agent = self.agent;
        if *held == Held::Unknown {
            let status = agent.freeze_status(THAW_TRY).await.map_err(|e| e.to_string())?;
            *held = if status == FreezeStatus::Frozen { Held::Yes } else { Held::No };
        }
        let asked = agent.ask_within::<u64>("guest-fsfreeze-thaw", json!({}), THAW_TRY).await;
        let thawed = agent.freeze_status(THAW_TRY).await.map_err(|e| e.to_string())?;
        match (asked, thawed) {
            (Ok(file_systems), FreezeStatus::Thawed) => Ok(file_systems.min(FILE_SYSTEMS_MAX)),
            // Windows says in this way that it could not hold so long.
            (Err(_), FreezeStatus::Thawed) => {
                *held = Held::No;
                Ok(0)
            }
            (Ok(_), FreezeStatus::Frozen) => {
                Err("the guest agent says that it thaws and stays frozen".to_owned())
            }
            (Err(error), FreezeStatus::Frozen) => Err(error.to_string()),
        }
    }
}
