//! A network that a test may spoil: TCP connections between two parties pass through here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// What the network does to what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Everything passes.
    Clear,
    /// Everything passes, so much later.
    Slow(Duration),
    /// Everything passes so much later, and so many of a hundred packets have to be sent again.
    Lossy {
        /// One way.
        delay: Duration,
        /// Of a hundred packets.
        percent: u32,
    },
    /// Connections stay and nothing passes, as where a cable is pulled.
    Silent,
    /// Connections that are there are dead for good, and neither side is told; new ones pass.
    HalfOpen,
    /// Connections break and new ones are refused.
    Cut,
}

/// One stretch of network.
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    target: watch::Sender<SocketAddr>,
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
        Proxy::at(Ipv4Addr::LOCALHOST.into(), target).await
    }

    /// Opens a stretch that begins at this address.
    pub async fn at(begin: IpAddr, target: SocketAddr) -> std::io::Result<Proxy> {
        let listener = TcpListener::bind((begin, 0)).await?;
        let address = listener.local_addr()?;
        let (weather, seen) = watch::channel(Weather::Clear);
        let (target, leads_to) = watch::channel(target);
        let accepting = tokio::spawn(accept(listener, leads_to, seen));
        Ok(Proxy { address, weather, target, accepting })
    }

    /// Returns where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has new connections lead elsewhere, and breaks those that are there. Returns where they led before.
    pub fn lead_to(&self, target: SocketAddr) -> SocketAddr {
        self.target.send_replace(target)
    }

    /// Changes the weather, for connections that are open as well.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn accept(
    listener: TcpListener,
    target: watch::Receiver<SocketAddr>,
    weather: watch::Receiver<Weather>,
) {
    while let Ok((near, _)) = listener.accept().await {
        if *weather.borrow() != Weather::Cut {
            tokio::spawn(carry(near, target.clone(), weather.clone()));
        }
    }
}

/// Carries one connection until either side ends it or the network does.
async fn carry(near: TcpStream, mut target: watch::Receiver<SocketAddr>, weather: watch::Receiver<Weather>) {
    let address = *target.borrow_and_update();
    let Ok(far) = TcpStream::connect(address).await else { return };
    let _small_messages_at_once = (near.set_nodelay(true), far.set_nodelay(true));
    let is_after_the_break = *weather.borrow() == Weather::HalfOpen;
    let ((mut near_read, mut near_write), (mut far_read, mut far_write)) =
        (near.into_split(), far.into_split());
    let (mut cut, mut breaking) = (weather.clone(), weather.clone());
    let broken = async {
        let _ended = breaking.wait_for(|weather| *weather == Weather::HalfOpen && !is_after_the_break).await;
    };
    tokio::select! {
        () = pump(&mut near_read, &mut far_write, weather.clone()) => return,
        () = pump(&mut far_read, &mut near_write, weather) => return,
        _ = cut.wait_for(|weather| *weather == Weather::Cut) => return,
        _ = target.changed() => return,
        () = broken => {}
    }
    // Neither side is told anything, ever.
    let _cut = cut.wait_for(|weather| *weather == Weather::Cut).await;
}

/// Longest piece that is carried at a time.
const PIECE: usize = 16 * 1024;

/// Pieces under way at a time.
const UNDER_WAY: usize = 64;

/// First time after which TCP sends again what was lost (RFC 6298 says a second, Linux does so sooner); it doubles.
const SENT_AGAIN: Duration = Duration::from_millis(200);

/// Returns how long a piece is under way. What is lost comes later, and so does everything behind it.
fn passage(weather: Weather) -> Duration {
    match weather {
        Weather::Slow(delay) => delay,
        Weather::Lossy { delay, percent } => {
            let mut passage = delay;
            let mut again = SENT_AGAIN;
            while rand::random_ratio(percent, 100) {
                passage += again;
                again *= 2;
            }
            passage
        }
        Weather::Clear | Weather::Silent | Weather::HalfOpen | Weather::Cut => Duration::ZERO,
    }
}

async fn pump(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, mut weather: watch::Receiver<Weather>) {
    let (sending, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let seen = weather.clone();
    let taking = async move {
        let mut piece = vec![0; PIECE];
        let mut last = Instant::now();
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            let passage = passage(*seen.borrow());
            last = last.max(Instant::now() + passage);
            if sending.send((last, piece[..length].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let giving = async move {
        while let Some((at, piece)) = under_way.recv().await {
            tokio::time::sleep_until(at).await;
            if weather.wait_for(|weather| *weather != Weather::Silent).await.is_err() {
                break;
            }
            if to.write_all(&piece).await.is_err() {
                break;
            }
        }
    };
    // What was taken is given, also where no more comes.
    tokio::join!(taking, giving);
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
        let (answer, stream) = asking.await.unwrap();
        assert_eq!(&answer?, b"ping");

        proxy.set(Weather::HalfOpen);
        let mut dead = stream;
        let asking = tokio::spawn(async move { ask(&mut dead).await });
        let mut stream = TcpStream::connect(proxy.address()).await?;
        assert_eq!(&ask(&mut stream).await?, b"ping");
        proxy.set(Weather::Lossy { delay: Duration::from_millis(1), percent: 5 });
        assert_eq!(&ask(&mut stream).await?, b"ping");
        assert!(!asking.is_finished(), "dead for good");

        proxy.set(Weather::Cut);
        assert!(asking.await.unwrap().is_err());
        assert!(ask(&mut stream).await.is_err());
        let mut refused = TcpStream::connect(proxy.address()).await?;
        assert!(ask(&mut refused).await.is_err());
        Ok(())
    }
}
