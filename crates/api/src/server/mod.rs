//! The server: the node's API on its home's socket and, inside a machine, on the guest channel.
//!
//! Everybody may knock; who may do what is decided by the node for each request. What is read from a
//! connection has a bound in size and time. The server must never keep a machine's or a caller's data
//! longer than the call, and must never do itself what the node can be asked to do.

mod clean;
mod console;
mod endpoints;
mod events;
#[cfg(test)]
mod fake;
mod guarded;
mod input;
mod lines;
mod listen;
mod nodes_inside;
mod problem;
mod proxy;
#[cfg(test)]
mod tests;
mod tree;

use std::{io, path::Path};

use nestling_node::{Identity, Node};
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi;

use crate::client::SOCKET_NAME;
use endpoints::App;
use listen::Listener;
pub use nodes_inside::nodes_inside;

/// The document that describes all endpoints.
pub fn openapi() -> OpenApi {
    endpoints::all().1
}

/// Serves the node's API on `home`'s socket, and to the host above if this host is a machine with a guest
/// channel (`device`). Ends after `shutdown`, or when the node was asked to stop: the socket goes at once, and
/// calls under way get a few seconds to end.
///
/// The caller holds the home's lock (an open node does), so that a socket found in it is nobody's.
pub async fn serve(
    node: Node,
    home: &Path,
    device: Option<&Path>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listener = Listener::bind(home.join(SOCKET_NAME))?;
    let stop = shutdown.child_token();
    let router = endpoints::all().0.with_state(App { node: node.clone(), stop: stop.clone() });
    let stopped = async {
        tokio::select! {
            () = node.stopped() => stop.cancel(),
            () = stop.cancelled() => {}
        }
    };
    let parent = async {
        let Some(device) = device else { return };
        let serve = |io| listen::connection(io, Identity::Parent, router.clone(), stop.clone());
        nestling_hypervisor::channel::serve_device(device, stop.clone(), serve).await;
    };
    tokio::join!(listener.serve(router.clone(), stop.clone()), parent, stopped);
    Ok(())
}
