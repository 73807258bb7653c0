use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::limits::{Answer, BODY_BYTES_MAX, CallLimits};

/// The body of an answer from inside a machine, let through as it is read, until it is too large or too late.
///
/// Nothing is kept here: what is under way is bounded by the connection's windows, so that any number of such
/// answers costs little. One that breaks a limit is cut off; its reader sees a broken stream, never a
/// shorter one that looks whole.
pub(super) struct Guarded {
    inner: Incoming,
    /// How much may come yet and until when, unless it may be endless.
    whole: Option<(usize, Pin<Box<Sleep>>)>,
}

/// Why an answer was cut off.
#[derive(Debug, thiserror::Error)]
pub(super) enum CutOff {
    #[error("the answer from inside the machine is larger than {} MB", BODY_BYTES_MAX >> 20)]
    TooLarge,
    #[error("the answer from inside the machine took too long")]
    TooLate,
    #[error("the node inside the machine went away")]
    Lost(#[source] hyper::Error),
}

impl Guarded {
    pub(super) fn new(inner: Incoming, limits: CallLimits, asked_at: Instant) -> Self {
        let whole = match limits.answer {
            Answer::Endless => None,
            Answer::Whole => {
                let sleep = tokio::time::sleep_until(asked_at + limits.head_timeout);
                Some((BODY_BYTES_MAX, Box::pin(sleep)))
            }
        };
        Self { inner, whole }
    }
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        let this = &mut *self;
        if let Some((_, late)) = &mut this.whole
            && late.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(CutOff::TooLate)));
        }
        loop {
            let Some(frame) = ready!(Pin::new(&mut this.inner).poll_frame(cx)) else {
                return Poll::Ready(None);
            };
            // Trailers have no meaning here and no limit: they are left out.
            let data = match frame.map(Frame::into_data) {
                Ok(Ok(data)) => data,
                Ok(Err(_)) => continue,
                Err(error) => return Poll::Ready(Some(Err(CutOff::Lost(error)))),
            };
            if let Some((left, _)) = &mut this.whole {
                match left.checked_sub(data.len()) {
                    Some(less) => *left = less,
                    None => return Poll::Ready(Some(Err(CutOff::TooLarge))),
                }
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
