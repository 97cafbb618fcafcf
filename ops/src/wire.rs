//! Two small things that containers without a shell need: a check that a port or a page answers, and a forwarder.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use crate::exit::{Exit, Failure};

/// Longest wait for a connection.
const PATIENCE: Duration = Duration::from_secs(3);

/// Tells whether something listens at an address or, where a path follows it, answers there with 200.
pub async fn probe(address: &str) -> Exit {
    let is_there = match address.find('/') {
        Some(end) => runtime::health::is_fine(&address[..end], &address[end..]).await,
        None => matches!(tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await, Ok(Ok(_))),
    };
    if is_there { Exit::Fine } else { Exit::Trouble }
}

/// Pause between two looks at the neighbour.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Looks in a row at which a neighbour may be missing: it may just be starting.
const MOST_MISSES: u32 = 4;

/// Carries every connection on to another address until the process ends.
///
/// Webhooks and tokens go over plain HTTP to loopback only, so the doubles in other containers have to be there too.
/// A container that was started again has a new loopback. So this ends when the neighbour it serves is no longer to
/// be found beside it, and is started again beside the new one.
pub async fn forward(listen: &str, to: &str, neighbour: Option<&str>) -> Result<Exit, Failure> {
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| Failure::environment(format!("Cannot listen at {listen}: {error}")))?;
    let mut signals = crate::signals::Signals::listen()?;
    let alone = is_left_alone(neighbour);
    tokio::pin!(alone);
    loop {
        tokio::select! {
            () = signals.next() => return Ok(Exit::Fine),
            () = &mut alone => return Err(Failure::trouble("The neighbour is gone.")),
            accepted = listener.accept() => {
                let (near, _) = accepted.map_err(|error| Failure::trouble(format!("Cannot accept: {error}")))?;
                tokio::spawn(carry(near, to.to_owned()));
            }
        }
    }
}

/// Comes back when the neighbour has been missing for a while.
async fn is_left_alone(neighbour: Option<&str>) {
    let Some(neighbour) = neighbour else { return std::future::pending().await };
    let mut misses = 0;
    while misses < MOST_MISSES {
        tokio::time::sleep(LOOK_AGAIN).await;
        misses = if probe(neighbour).await == Exit::Fine { 0 } else { misses + 1 };
    }
}

async fn carry(mut near: TcpStream, to: String) {
    // Either side may hang up at any time; closing our ends tells the other.
    if let Ok(mut far) = TcpStream::connect(&to).await {
        let _hung_up = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn bytes_go_both_ways_and_a_silent_port_is_noticed() {
        let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far_address = far.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut connection, _) = far.accept().await.unwrap();
            let mut asked = [0_u8; 4];
            connection.read_exact(&mut asked).await.unwrap();
            connection.write_all(b"pong").await.unwrap();
        });
        let near = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near_address = near.local_addr().unwrap();
        tokio::spawn(async move { carry(near.accept().await.unwrap().0, far_address).await });
        let mut client = TcpStream::connect(near_address).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "pong");
        assert_eq!(probe("127.0.0.1:1").await, Exit::Trouble);
    }

    #[tokio::test]
    async fn a_page_has_to_be_answered_with_200() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for status in ["200 OK", "503 Service Unavailable"] {
                let (mut connection, _) = listener.accept().await.unwrap();
                let mut asked = [0_u8; 64];
                let length = connection.read(&mut asked).await.unwrap();
                assert!(asked[..length].starts_with(b"GET /healthz?js-enabled-only=true HTTP/1.0\r\n"));
                connection.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await.unwrap();
            }
        });
        let page = format!("{address}/healthz?js-enabled-only=true");
        assert_eq!(probe(&page).await, Exit::Fine);
        assert_eq!(probe(&page).await, Exit::Trouble);
        assert_eq!(probe("127.0.0.1:1/healthz").await, Exit::Trouble);
    }
}
