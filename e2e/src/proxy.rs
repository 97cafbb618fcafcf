//! A network that a test may spoil: TCP connections between two parties pass through here.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the network does to what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Everything passes.
    Clear,
    /// Everything passes, so much later.
    Slow(Duration),
    /// Connections stay and nothing passes, as where a cable is pulled.
    Silent,
    /// Connections break and new ones are refused.
    Cut,
}

/// One stretch of network.
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.weather.send_replace(Weather::Cut);
    }
}

impl Proxy {
    /// Opens a stretch that leads to an address.
    pub async fn to(target: SocketAddr) -> std::io::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (weather, seen) = watch::channel(Weather::Clear);
        let accepting = tokio::spawn(accept(listener, target, seen));
        Ok(Proxy { address, weather, accepting })
    }

    /// Returns where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the weather, for connections that are open as well.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, weather: watch::Receiver<Weather>) {
    while let Ok((near, _)) = listener.accept().await {
        if *weather.borrow() != Weather::Cut {
            tokio::spawn(carry(near, target, weather.clone()));
        }
    }
}

/// Carries one connection until either side ends it or the network does.
async fn carry(near: TcpStream, target: SocketAddr, weather: watch::Receiver<Weather>) {
    let Ok(far) = TcpStream::connect(target).await else { return };
    let _small_messages_at_once = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    let mut cut = weather.clone();
    tokio::select! {
        () = pump(near_read, far_write, weather.clone()) => {}
        () = pump(far_read, near_write, weather) => {}
        _ = cut.wait_for(|weather| *weather == Weather::Cut) => {}
    }
}

/// Longest piece that is carried at a time.
const PIECE: usize = 16 * 1024;

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut weather: watch::Receiver<Weather>) {
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let now = weather.wait_for(|weather| *weather != Weather::Silent).await.map(|now| *now);
        match now {
            Ok(Weather::Slow(delay)) => tokio::time::sleep(delay).await,
            Ok(_) => {}
            Err(_) => return,
        }
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ended = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        Ok(address)
    }

    async fn ask(stream: &mut TcpStream) -> std::io::Result<[u8; 4]> {
        stream.write_all(b"ping").await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn silence_keeps_what_was_sent_and_a_cut_breaks_connections() -> std::io::Result<()> {
        let proxy = Proxy::to(echo().await?).await?;
        let mut stream = TcpStream::connect(proxy.address()).await?;
        assert_eq!(&ask(&mut stream).await?, b"ping");

        proxy.set(Weather::Silent);
        let asking = tokio::spawn(async move { (ask(&mut stream).await, stream) });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!asking.is_finished());
        proxy.set(Weather::Slow(Duration::from_millis(1)));
        let (answer, mut stream) = asking.await.unwrap();
        assert_eq!(&answer?, b"ping");

        proxy.set(Weather::Cut);
        assert!(ask(&mut stream).await.is_err());
        let mut refused = TcpStream::connect(proxy.address()).await?;
        assert!(ask(&mut refused).await.is_err());
        Ok(())
    }
}
