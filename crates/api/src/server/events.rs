use std::{collections::HashSet, time::Duration};

use axum::body::Body;
use futures_util::{Stream, StreamExt};
use http::Request;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{clean, lines, proxy::Inside};
use crate::{client::Lines, v1::Event};

/// Events that wait for a slow reader. One that is slower still misses some, which the gap in the
/// numbers shows.
const QUEUE: usize = 256;

/// How long the node inside a machine may take to begin telling.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(60);

/// The machines whose inside can be asked now.
pub(super) trait Insides: Send + Sync + 'static {
    type Channel: Inside + Send + Sync + 'static;

    fn channels(&self) -> impl Future<Output = Vec<(String, Self::Channel)>> + Send;
}

/// A body of lines, one event each: this node's own, and those of the nodes inside its machines if
/// `insides` are given. It ends when the reader goes away or the node stops.
pub(super) fn body<I: Insides>(
    own: impl Stream<Item = Event> + Send + Unpin + 'static,
    insides: Option<I>,
    stop: CancellationToken,
) -> Body {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = sender.closed() => {}
            () = tell(own, insides, &sender) => {}
        }
    });
    Body::from_stream(ReceiverStream::new(receiver).map(|event| lines::line(&event)))
}

async fn tell<I: Insides>(
    mut own: impl Stream<Item = Event> + Unpin,
    insides: Option<I>,
    sender: &mpsc::Sender<Event>,
) {
    let mut followed = HashSet::new();
    let mut following = JoinSet::new();
    loop {
        if let Some(insides) = &insides {
            for (vm, channel) in insides.channels().await {
                if followed.insert(vm.clone()) {
                    following.spawn(follow(vm, channel, sender.clone()));
                }
            }
        }
        // Machines come and go with an event of this node's: that is when to look for them again.
        loop {
            tokio::select! {
                event = own.next() => {
                    let Some(event) = event else { return };
                    let look_again = event.kind == "channel";
                    if sender.send(event).await.is_err() {
                        return;
                    }
                    if look_again {
                        break;
                    }
                }
                Some(ended) = following.join_next() => {
                    if let Ok(vm) = ended {
                        followed.remove(&vm);
                    }
                }
            }
        }
    }
}

/// Passes on what happens inside one machine until it stops telling.
async fn follow<C: Inside>(vm: String, channel: C, sender: mpsc::Sender<Event>) -> String {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = http::Uri::from_static("http://node/v1/events?follow_inside=true");
    let Ok(answer) = channel.ask(request, BEGIN_TIMEOUT).await else { return vm };
    if !answer.status().is_success() {
        return vm;
    }
    let mut events = Lines::<Event>::new(answer);
    while let Some(Ok(mut event)) = events.next().await {
        event.path = Some(match event.path {
            None => vm.clone(),
            Some(inner) => format!("{vm}/{inner}"),
        });
        clean::event(&mut event);
        if sender.send(event).await.is_err() {
            break;
        }
    }
    vm
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };

    use axum::{Router, body::Body, routing::get};
    use http_body_util::BodyExt;
    use serde_json::json;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::{
        super::fake::{Channel, node_inside},
        *,
    };

    type Named = (String, Channel);

    #[derive(Clone, Default)]
    struct Machines(Arc<Mutex<Vec<Named>>>);

    impl Machines {
        fn add(&self, name: &str, channel: Channel) {
            self.0.lock().unwrap().push((name.into(), channel));
        }
    }

    impl Insides for Machines {
        type Channel = Channel;

        async fn channels(&self) -> Vec<Named> {
            self.0.lock().unwrap().clone()
        }
    }

    fn event(kind: &str, object: &str) -> Event {
        Event {
            sequence: 1,
            at_ms: 1,
            kind: kind.into(),
            object: object.into(),
            message: String::new(),
            path: None,
        }
    }

    /// A machine that tells the same event for ever.
    async fn chatterbox(path: Option<&str>) -> Channel {
        let said = json!({"sequence": 1, "at_ms": 1, "kind": "vm-state", "object": "x\u{7}", "message": "",
            "path": path});
        let said = format!("{said}\n");
        let tell = get(async move || {
            Body::from_stream(futures_util::stream::repeat(Ok::<_, Infallible>(said.clone())))
        });
        node_inside(Router::new().route("/v1/events", tell)).await
    }

    async fn next(body: &mut Body) -> Event {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        serde_json::from_slice(&frame).unwrap()
    }

    #[tokio::test]
    async fn a_machine_that_talks_for_ever_drowns_nobody() {
        let machines = Machines::default();
        machines.add("L1", chatterbox(Some("L2")).await);
        let (own, events) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let own_events = UnboundedReceiverStream::new(events);
        let mut body = body(own_events, Some(machines.clone()), stop.clone());
        let first = next(&mut body).await;
        assert_eq!((first.path.as_deref(), first.object.as_str()), (Some("L1/L2"), "x\u{fffd}"));

        own.send(event("vm-state", "mine")).unwrap();
        let mut read = 0;
        while next(&mut body).await.path.is_some() {
            read += 1;
            assert!(read < 4 * QUEUE, "the host's own event does not get through");
        }

        // Another machine's channel comes up.
        machines.add("M1", chatterbox(None).await);
        own.send(event("channel", "M1")).unwrap();
        while next(&mut body).await.path.as_deref() != Some("M1") {}

        stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), async { while body.frame().await.is_some() {} })
            .await
            .expect("the stream ends when the node stops");
    }
}
