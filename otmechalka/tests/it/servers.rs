//! Servers on free ports of loopback: some speak HTTP, some only pretend to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

/// An answer decided beforehand.
pub struct Canned(Response<Body>);

impl Canned {
    pub fn json(status: StatusCode, body: &Value) -> Self {
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().expect("a header"));
        Self(response)
    }

    pub fn redirect(target: &str) -> Self {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        response.headers_mut().insert(LOCATION, target.parse().expect("a header"));
        Self(response)
    }

    pub fn retry_after(mut self, value: &str) -> Self {
        self.0.headers_mut().insert(RETRY_AFTER, value.parse().expect("a header"));
        self
    }
}

/// A request as it arrived.
#[derive(Clone)]
pub struct Arrived {
    pub method: Method,
    pub path: String,
    pub authorization: Option<String>,
    pub body: Bytes,
}

/// An HTTP server that notes requests and gives them all the same answer.
pub struct Recorder {
    pub url: Url,
    arrived: Arc<Mutex<Vec<Arrived>>>,
}

impl Recorder {
    pub async fn start(answer: impl Fn() -> Canned + Clone + Send + Sync + 'static) -> Self {
        let arrived = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&arrived);
        let handler = async move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            let path = uri.path().to_owned();
            let request = Arrived { method, path, authorization: authorization.map(str::to_owned), body };
            noted.lock().expect("not poisoned").push(request);
            answer().0
        };
        let (listener, url) = listen().await;
        tokio::spawn(axum::serve(listener, Router::new().fallback(handler)).into_future());
        Self { url, arrived }
    }

    pub fn requests(&self) -> Vec<Arrived> {
        self.arrived.lock().expect("not poisoned").clone()
    }
}

/// A TCP server that reads a request and then does one thing.
pub struct RawServer {
    pub url: Url,
    requests: Arc<AtomicUsize>,
}

impl RawServer {
    /// Resets the connection.
    pub async fn resetting() -> Self {
        Self::start(async |stream| stream.set_zero_linger().expect("a socket option")).await
    }

    /// Closes the connection in good order, without a word.
    pub async fn closing() -> Self {
        Self::start(async |mut stream| drop(stream.shutdown().await)).await
    }

    /// Says nothing and keeps the connection.
    pub async fn silent() -> Self {
        Self::start(async |mut stream| drop(stream.read_to_end(&mut Vec::new()).await)).await
    }

    /// Sends these bytes and closes.
    pub async fn answering(bytes: &'static str) -> Self {
        Self::start(async move |mut stream| drop(stream.write_all(bytes.as_bytes()).await)).await
    }

    /// Sends a byte now and then, for ever.
    pub async fn dripping() -> Self {
        Self::start(async |mut stream| {
            let head =
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n{";
            let mut next = stream.write_all(head).await;
            while next.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                next = stream.write_all(b" ").await;
            }
        })
        .await
    }

    /// Sends without an end, as fast as it is read.
    pub async fn endless() -> Self {
        Self::start(async |mut stream| {
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{";
            let mut next = stream.write_all(head).await;
            while next.is_ok() {
                next = stream.write_all(&[b' '; 8192]).await;
            }
        })
        .await
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    async fn start<F>(behave: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (listener, url) = listen().await;
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                if read_request(&mut stream).await {
                    counter.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(behave(stream));
                }
            }
        });
        Self { url, requests }
    }
}

/// Reads a request to the end of its body; false when the caller hung up first.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut read = Vec::new();
    while !is_whole(&read) {
        match stream.read_buf(&mut read).await {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
    }
    true
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    request.len() >= head.len() + 4 + length.unwrap_or(0)
}

/// A server over TLS that counts the requests it could read.
pub struct TlsServer {
    pub port: u16,
    /// The certificate, which is its own authority.
    pub certificate_pem: String,
    requests: Arc<AtomicUsize>,
}

impl TlsServer {
    /// Starts with a certificate for `localhost`, good until the given year.
    pub async fn start(good_until: i32) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
        parameters.not_before = rcgen::date_time_ymd(2000, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(good_until, 1, 1);
        let certificate = parameters.self_signed(&key).expect("a certificate");
        let private_key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private_key)
            .expect("a certificate with its key");
        let (listener, url) = listen().await;
        let requests = Arc::new(AtomicUsize::new(0));
        tokio::spawn(serve_tls(listener, Arc::new(config).into(), Arc::clone(&requests)));
        let port = url.port().expect("a port");
        Self { port, certificate_pem: certificate.pem(), requests }
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve_tls(listener: TcpListener, acceptor: tokio_rustls::TlsAcceptor, requests: Arc<AtomicUsize>) {
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(mut stream) = acceptor.accept(stream).await else { continue };
        if read_request(&mut stream).await {
            requests.fetch_add(1, Ordering::SeqCst);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\n{\"id\": 1}";
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
    }
}

/// Returns the address of a port on which nobody listens.
pub async fn closed_port() -> Url {
    listen().await.1
}

async fn listen() -> (TcpListener, Url) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    (listener, Url::parse(&format!("http://{address}/")).expect("a URL"))
}
