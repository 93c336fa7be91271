//! Connections: plain or with TLS, and given up when their clients are dead or dawdle.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum_server::Handle;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use futures::future::BoxFuture;
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tokio_io_timeout::TimeoutStream;

use crate::error::{Error, Result};

/// How long a connection may go without a request, which is also how long the head of one may take.
/// Longer than the clients and proxies that people use keep theirs, so that it is they who close.
const IDLE: Duration = Duration::from_secs(120);
/// How often a connection of HTTP/2 is asked whether it is there, and how long that may take.
const PING: Duration = Duration::from_secs(20);
/// How often it is looked whether the certificate changed.
const LOOK: Duration = Duration::from_secs(5);

/// Serves until `handle` ends it.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<Tls>,
    client_timeout: Duration,
    handle: Handle<SocketAddr>,
) -> io::Result<()> {
    let acceptor = Patient { client_timeout };
    let mut server = axum_server::from_tcp(listener.into_std()?)?.acceptor(acceptor).handle(handle);
    let http = server.http_builder();
    http.http1().timer(TokioTimer::new()).header_read_timeout(IDLE);
    http.http2().timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PING);
    // A router as it is would be copied as a whole for each connection.
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    match tls {
        None => {
            let server = server.map(|plain| Attentive { inner: plain, patience: client_timeout });
            server.serve(service).await
        }
        Some(tls) => {
            let config = tls.config.clone();
            let server = server.map(|plain| Attentive {
                inner: RustlsAcceptor::new(config).acceptor(plain),
                patience: client_timeout,
            });
            let serving = server.serve(service);
            tokio::select! {
                served = serving => served,
                () = tls.follow() => Ok(()),
            }
        }
    }
}

/// Takes connections as they come: small answers go out at once instead of waiting for more, and a
/// client that takes nothing of its answer for too long is given up.
#[derive(Debug, Clone)]
struct Patient {
    client_timeout: Duration,
}

impl<S: Send + 'static> Accept<TcpStream, S> for Patient {
    type Stream = Pin<Box<TimeoutStream<TcpStream>>>;
    type Service = S;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let client_timeout = self.client_timeout;
        Box::pin(async move {
            stream.set_nodelay(true)?;
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(client_timeout));
            Ok((Box::pin(stream), service))
        })
    }
}

/// What a client of HTTP/2 says first.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Takes connections as another does, behind TLS where that is TLS. A client that does not come to
/// say which version of HTTP it speaks is given up: nothing else limits how long that may take.
#[derive(Debug, Clone)]
struct Attentive<A> {
    inner: A,
    patience: Duration,
}

impl<A, S> Accept<TcpStream, S> for Attentive<A>
where
    A: Accept<TcpStream, S>,
    A::Stream: 'static,
    A::Service: 'static,
    A::Future: Send + 'static,
{
    type Stream = Beginning<A::Stream>;
    type Service = A::Service;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, A::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let (accepted, patience) = (self.inner.accept(stream, service), self.patience);
        Box::pin(async move {
            let (stream, service) = accepted.await?;
            let awaited = Some((Box::pin(tokio::time::sleep(patience)), 0));
            Ok((Beginning { stream, awaited }, service))
        })
    }
}

/// A connection of which nothing can be read any more when its version is not known in time.
struct Beginning<S> {
    stream: S,
    /// The end of that time, and how much has come of [`HTTP2`]; nothing once the version is known.
    awaited: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Beginning<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let Some((end, known)) = &mut this.awaited else { return read };
        if read.is_pending() {
            ready!(end.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let (came, expected) = (&buffer.filled()[before..], &HTTP2[*known..]);
        if came.len() < expected.len() && expected.starts_with(came) {
            *known += came.len();
        } else {
            this.awaited = None;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Beginning<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The certificate and the key of the server, from files.
pub(super) struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    config: RustlsConfig,
    read: Stamp,
}

/// When the files were changed last.
type Stamp = [Option<SystemTime>; 2];

impl Tls {
    /// # Errors
    /// `InvalidInput` for files that cannot be read or that do not fit together.
    pub(super) async fn open(certificate: &Path, key: &Path) -> Result<Self> {
        // Lance's crates bring more than one implementation of TLS along. Fails when one was chosen before.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let read = stamp(certificate, key).await;
        let config = RustlsConfig::from_pem_file(certificate, key).await.map_err(|error| {
            Error::invalid_input(format!(
                "the certificate {} and the key {} cannot be used: {error}",
                certificate.display(),
                key.display()
            ))
        })?;
        Ok(Self { certificate: certificate.into(), key: key.into(), config, read })
    }

    /// Reads the files again when they change. Connections that are there keep what they have; files
    /// that cannot be used, such as while only one of them is new, change nothing.
    async fn follow(mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let now = stamp(&self.certificate, &self.key).await;
            if now == self.read {
                continue;
            }
            self.read = now;
            match self.config.reload_from_pem_file(&self.certificate, &self.key).await {
                Ok(()) => tracing::info!("the certificate changed"),
                Err(error) => tracing::warn!(%error, "the new certificate cannot be used yet"),
            }
        }
    }
}

async fn stamp(certificate: &Path, key: &Path) -> Stamp {
    let changed = async |path: &Path| tokio::fs::metadata(path).await.ok()?.modified().ok();
    [changed(certificate).await, changed(key).await]
}
