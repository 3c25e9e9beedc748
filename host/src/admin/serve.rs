//! Connections to the admin plane. They are few, and none is kept by whoever does not use it.
//!
//! As on the data plane, a connection is closed when a head or a body does not become whole in time, when no further
//! request comes, or when what is sent is not taken. If there are as many as there may be, those over which the host has
//! waited longest for the operator make room: so somebody who opens thousands keeps nobody out, and takes no descriptor
//! that callers, the store or workers need.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Json, Router, body, response::IntoResponse as _, response::Response};
use http_body_util::BodyExt as _;
use hyper::{
    Request, StatusCode,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::config::AdminPlane;
use cutover_model::clock;
use cutover_traffic::{
    ingress::{
        Ends,
        activity::{Active, Shortage},
        guard::{end, guard},
        reaper::{IdleReaper, make_room},
        watched::Watched,
    },
    pool::upstream::upload::{Incomplete, Upload, Wait},
};

/// What has to be here of a body before anybody looks at the request: most bodies are no longer.
const GATHERED: usize = 64 << 10;

/// How long to wait when no connection can be accepted: for descriptors to come back, as a rule.
const BREATH: Duration = Duration::from_millis(50);

/// What an operator has for its first request to arrive before its connection may have to make room for another: less than
/// a caller, because there are few connections, and nobody is far away.
const YOUNG: Duration = Duration::from_millis(10);

/// What all connections have.
struct Serving {
    app: TowerToHyperService<Router>,
    settings: AdminPlane,
    watch: Arc<IdleReaper>,
}

/// A body that has to be whole in time.
struct Timed {
    body: Upload,
    limit: Duration,
    late: Pin<Box<Sleep>>,
}

/// Serves connections until `shutdown`, and then those that have a request under way.
pub(super) async fn serve(listener: TcpListener, app: Router, settings: AdminPlane, shutdown: CancellationToken) {
    let shortage = Arc::<Shortage>::default();
    let watch = Arc::new(IdleReaper::new(settings.limits, settings.max_connections, Arc::clone(&shortage)));
    let serving = Arc::new(Serving { app: TowerToHyperService::new(app), settings, watch });
    let connections = Arc::new(Semaphore::new(settings.max_connections));
    let (tasks, done) = <(TaskTracker, CancellationToken)>::default();
    let ends = Ends { shutdown: shutdown.clone(), ..Ends::default() };
    let accept = async {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::error!(%error, "the admin plane cannot accept a connection");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            };
            let permit = match Arc::clone(&connections).try_acquire_owned() {
                Ok(permit) => permit,
                Err(_full) => {
                    let _waiting = shortage.begins();
                    let Some(permit) = serving.room(&connections, &shortage).await else { return };
                    permit
                }
            };
            let serving = Arc::clone(&serving);
            tasks.spawn(async move {
                let _permit = permit;
                serving.connection(stream).await;
            });
        }
    };
    let end = async {
        tokio::select! {
            () = accept => {}
            () = shutdown.cancelled() => {}
        }
        tasks.close();
        tasks.wait().await;
        done.cancel();
    };
    tokio::join!(end, serving.watch.run(&ends, &done));
}

impl Serving {
    /// Waits for a place for a connection, for which others make room.
    async fn room(&self, connections: &Arc<Semaphore>, shortage: &Shortage) -> Option<OwnedSemaphorePermit> {
        loop {
            make_room(std::slice::from_ref(&self.watch), shortage, YOUNG, clock::mono());
            tokio::select! {
                permit = Arc::clone(connections).acquire_owned() => return permit.ok(),
                () = tokio::time::sleep(YOUNG) => {}
            }
        }
    }

    async fn connection(&self, stream: TcpStream) {
        let pulse = self.watch.add(false, true);
        let service = service_fn(|request| {
            let active = pulse.begin();
            async move { Ok::<_, Infallible>(self.answer(request, active).await) }
        });
        let io = TokioIo::new(Watched::new(stream, Bytes::new(), Arc::clone(&pulse)));
        let mut connection = http1::Builder::new().serve_connection(io, service);
        let guarded = guard(Pin::new(&mut connection), &pulse, http1::Connection::graceful_shutdown).await;
        end(&pulse, &guarded);
    }

    async fn answer(&self, request: Request<Incoming>, active: Active) -> Response {
        let (parts, body) = request.into_parts();
        let AdminPlane { body_timeout, limits, .. } = self.settings;
        let (mut body, _progress) =
            Upload::of(body, false, limits.pace, |progress| Box::new(active.arriving(progress)));
        let late = Box::pin(tokio::time::sleep(body_timeout));
        let wait = Wait { idle: body_timeout, total: body_timeout, bytes: GATHERED };
        let reply = match body.gather(wait, false).await {
            Ok(()) => {
                let request = Request::from_parts(parts, body::Body::new(Timed { body, limit: body_timeout, late }));
                match self.app.call(request).await {
                    Ok(reply) => reply,
                    Err(never) => match never {},
                }
            }
            Err(why) => {
                let why = Json(json!({ "error": why.to_string() }));
                (StatusCode::REQUEST_TIMEOUT, [("connection", "close")], why).into_response()
            }
        };
        // It counts as served until all of it has been sent.
        reply.map(|body| {
            body::Body::new(body.map_frame(move |frame| {
                let _until_then = &active;
                frame
            }))
        })
    }
}

impl Body for Timed {
    type Data = Bytes;
    type Error = Incomplete;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Incomplete>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending if self.late.as_mut().poll(cx).is_ready() => {
                Poll::Ready(Some(Err(Incomplete::Late(self.limit))))
            }
            polled @ (Poll::Ready(_) | Poll::Pending) => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
