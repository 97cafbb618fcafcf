//! Where connections come in: plain, and over TLS where a certificate is given.
//!
//! `listener` of Bitrix24 and `wire` of otmechalka put their own switches round what is accepted here.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// A second way in, over TLS, beside the plain one.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The certificate and what leads to its authority, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// The arguments of a program that can listen over TLS.
#[derive(Debug, clap::Args)]
pub struct TlsArguments {
    /// Listens there over TLS too; what calls are told is this address. The administrator's side stays plain.
    #[arg(long, requires_all = ["tls_cert", "tls_key"])]
    tls_listen: Option<SocketAddr>,
    /// Certificate for --tls-listen, PEM.
    #[arg(long, requires = "tls_listen")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM.
    #[arg(long, requires = "tls_listen")]
    tls_key: Option<PathBuf>,
}

impl TlsArguments {
    /// Returns the second way in, if there is to be one.
    pub fn tls(self) -> Option<Tls> {
        Some(Tls { listen: self.tls_listen?, certificate: self.tls_cert?, key: self.tls_key? })
    }
}

/// Connections that wait to be taken while shaking hands over more.
const WAITING: usize = 64;

/// Accepts connections.
pub enum Door {
    Plain(TcpListener),
    Tls { ready: mpsc::Receiver<(Wire, SocketAddr)>, address: SocketAddr },
}

impl Door {
    /// Begins to listen over TLS.
    pub async fn over_tls(tls: &Tls) -> io::Result<Door> {
        let acceptor = acceptor(tls)?;
        let listener = TcpListener::bind(tls.listen).await?;
        let address = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(WAITING);
        tokio::spawn(shake_hands(listener, acceptor, sender));
        Ok(Door::Tls { ready, address })
    }

    /// Returns the next connection that may be spoken over.
    pub async fn accept(&mut self) -> (Wire, SocketAddr) {
        match self {
            Door::Plain(listener) => {
                let (stream, address) = Listener::accept(listener).await;
                prepare(&stream);
                (Wire::Plain(stream), address)
            }
            Door::Tls { ready, .. } => match ready.recv().await {
                Some(accepted) => accepted,
                None => std::future::pending().await,
            },
        }
    }

    /// Returns where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Door::Plain(listener) => listener.local_addr(),
            Door::Tls { address, .. } => Ok(*address),
        }
    }
}

fn acceptor(tls: &Tls) -> io::Result<TlsAcceptor> {
    let unreadable = |what: &str, path: &PathBuf| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{}: no {what} in PEM", path.display()))
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&tls.certificate)
        .and_then(Iterator::collect::<Result<Vec<CertificateDer<'static>>, _>>);
    let chain = chain.map_err(|_| unreadable("certificate", &tls.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|_| unreadable("private key", &tls.key))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    let config = config.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok(Arc::new(config).into())
}

/// Each handshake on a task of its own: one that hangs must not keep the next caller out.
async fn shake_hands(
    mut listener: TcpListener,
    acceptor: TlsAcceptor,
    sender: mpsc::Sender<(Wire, SocketAddr)>,
) {
    loop {
        let (stream, address) = tokio::select! {
            accepted = Listener::accept(&mut listener) => accepted,
            () = sender.closed() => return,
        };
        prepare(&stream);
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        tokio::spawn(async move {
            match acceptor.accept(stream).await {
                Ok(stream) => {
                    // Nobody takes it any more: the double stops.
                    let _stopping = sender.send((Wire::Tls(Box::new(stream)), address)).await;
                }
                Err(error) => tracing::info!("A caller from {address} broke the handshake off: {error}"),
            }
        });
    }
}

fn prepare(stream: &TcpStream) {
    // Small answers must not wait for the acknowledgement of earlier ones; failing that they only do.
    let _ = stream.set_nodelay(true);
}

/// A connection, plain or over TLS.
pub enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    /// Makes closing send a reset instead of an orderly end.
    pub fn set_zero_linger(&self) -> io::Result<()> {
        match self {
            Wire::Plain(stream) => stream.set_zero_linger(),
            Wire::Tls(stream) => stream.get_ref().0.set_zero_linger(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Wire::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
