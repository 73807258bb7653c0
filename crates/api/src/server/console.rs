use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use nestling_node::{Console, ConsoleView};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What one viewer still has to see, and what ends with it.
struct Viewer {
    view: ConsoleView,
    stop: CancellationToken,
    _typing: DropGuard,
}

/// Joins a machine's console with a request: what is `typed` goes in, what the machine writes is the answer.
/// Typing may end before the viewing does; it never outlives it.
pub(super) fn attach(console: &Console, typed: Body, stop: CancellationToken) -> Body {
    let mut view = console.attach();
    let recent = std::mem::take(&mut view.recent);
    let ended = CancellationToken::new();
    let typing = ended.clone().drop_guard();
    tokio::spawn(ended.run_until_cancelled_owned(type_in(console.clone(), typed)));
    let viewer = Viewer { view, stop, _typing: typing };
    let shown = stream::unfold(viewer, async |mut viewer| {
        let next = tokio::select! {
            () = viewer.stop.cancelled() => None,
            next = viewer.view.next() => next,
        };
        next.map(|bytes| (bytes, viewer))
    });
    let shown = stream::iter((!recent.is_empty()).then_some(recent)).chain(shown);
    Body::from_stream(shown.map(Ok::<Bytes, std::convert::Infallible>))
}

async fn type_in(console: Console, typed: Body) {
    let mut typed = typed.into_data_stream();
    while let Some(Ok(bytes)) = typed.next().await {
        if let Err(error) = console.write(&bytes).await {
            tracing::debug!(%error, "a console takes no input any more");
            return;
        }
    }
}
