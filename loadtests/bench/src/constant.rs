//! The yardstick: axum answering a constant of the size of Berth's own answer to a read, with nothing behind it.

use anyhow::Result;
use axum::Router;
use axum::http::header;
use axum::routing::get;
use axum::serve::ListenerExt;

/// As long as the answer to a read of a counter.
const ANSWER: &str = r#"{"kind":"counter","id":"bench-123","version":1234,"state":{"value":1234}}"#;

pub(crate) fn serve(port: u16) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("constant").build()?;
    runtime.block_on(async {
        let application = Router::new().route(
            "/v1/entities/{kind}/{id}",
            get(|| async { ([(header::CONTENT_TYPE, "application/json"), (header::ETAG, "\"1234\"")], ANSWER) }),
        );
        #[expect(clippy::disallowed_methods, reason = "a tool beside the cluster, which no simulation runs")]
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        // As the gateway does. A connection that refuses the option has ended, which serving it will find.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        Ok(axum::serve(listener, application).await?)
    })
}
