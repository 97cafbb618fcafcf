//! What listens to monitors and people: so many connections at once, each for so long.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Connections at once; whoever comes then waits. A stage may have 128 open files.
const MOST: usize = 32;

/// How long one lasts, so that a caller who says nothing, or a letter a minute, keeps nobody out for long.
const LONGEST: Duration = Duration::from_secs(30);

/// A listener that accepts no more connections than it has room for.
pub struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
    longest: Duration,
}

impl Bounded {
    /// Binds an address.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<Bounded> {
        Bounded::with(address, MOST, LONGEST).await
    }

    async fn with(address: impl ToSocketAddrs, most: usize, longest: Duration) -> io::Result<Bounded> {
        let listener = TcpListener::bind(address).await?;
        Ok(Bounded { listener, room: Arc::new(Semaphore::new(most)), longest })
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // Never closed, so there always is one in the end.
        let room = Arc::clone(&self.room).acquire_owned().await.ok();
        let (stream, from) = Listener::accept(&mut self.listener).await;
        let ends = Box::pin(tokio::time::sleep(self.longest));
        (Connection { stream, ends, _room: room }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends by itself: what is asked too late is not read.
pub struct Connection {
    stream: TcpStream,
    ends: Pin<Box<Sleep>>,
    _room: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ends.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.ends.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn whoever_says_nothing_keeps_nobody_out_for_long() {
        let listener = Bounded::with("127.0.0.1:0", 2, Duration::from_millis(300)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let pages = axum::Router::new().fallback(|| async { "here" });
        tokio::spawn(async move { axum::serve(listener, pages).await });
        let mut silent =
            [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        silent[0].write_all(b"GET / HTTP/1.1\r\n").await.unwrap();

        let mut asking = TcpStream::connect(address).await.unwrap();
        asking.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        asking.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"), "{answer}");
        for silent in &mut silent {
            let mut nothing = Vec::new();
            // Cut with or without a farewell.
            drop(silent.read_to_end(&mut nothing).await);
            assert!(!String::from_utf8_lossy(&nothing).contains("200"));
        }
    }
}
