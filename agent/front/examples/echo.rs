//! The floor for the bench: reads a whole body and sends it back. `echo [--port N]` prints its address.

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--port").skip(1);
    let port = arguments.next().and_then(|port| port.parse().ok()).unwrap_or(0_u16);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    #[expect(clippy::print_stdout, reason = "the address is what this program prints")]
    {
        println!("{}", listener.local_addr()?);
    }
    let router = Router::new()
        .fallback_service(post(|body: Bytes| async move { body }))
        .layer(DefaultBodyLimit::disable());
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        stream.set_nodelay(true).ok();
    });
    axum::serve(listener, router).await
}
