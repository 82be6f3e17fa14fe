//! Where clients come from: a TCP port or a socket in the file system.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::RenameFlags;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::error::{Error, Result, io_error};

/// Where clients come from.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: Removed },
}

/// A file that goes with whoever has it.
#[derive(Debug)]
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        let _ = fs::remove_file(&self.0);
    }
}

/// What is read from a client, and what is written to it.
pub(super) type Connection = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

impl Listener {
    /// On a port; port 0 takes a free one. NBD knows no password: other machines may connect only where `is_public` says so.
    pub async fn tcp(address: SocketAddr, is_public: bool) -> Result<Self> {
        if !is_public && !address.ip().is_loopback() {
            return Err(Error::invalid(format!("{address} can be reached from other machines, and NBD asks for no token"))
                .help("listen on 127.0.0.1 and forward the port with ssh, or let everybody read with --insecure-public"));
        }
        let listener =
            TcpListener::bind(address).await.map_err(|e| io_error(format!("listen on {address}"), e))?;
        Ok(Self(Kind::Tcp(listener)))
    }

    /// On a socket that only its owner may use. It is removed at the end.
    ///
    /// It is made in a folder that nobody else may enter, and gets its name when its mode is right: between bind and chmod
    /// others could connect. A name that is taken is an error.
    pub fn unix(path: &Path) -> Result<Self> {
        let failed = |e: io::Error| io_error(format!("listen on {}", path.display()), e);
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Short: an address of a socket has about a hundred bytes.
        let hidden =
            tempfile::Builder::new().prefix(".c").rand_bytes(4).tempdir_in(parent).map_err(failed)?;
        let made = hidden.path().join("s");
        let listener = UnixListener::bind(&made).map_err(failed)?;
        fs::set_permissions(&made, Permissions::from_mode(0o600)).map_err(failed)?;
        let here = rustix::fs::CWD;
        rustix::fs::renameat_with(here, &made, here, path, RenameFlags::NOREPLACE).map_err(|e| match e {
            Errno::EXIST => failed(io::ErrorKind::AddrInUse.into())
                .help("a socket that an earlier run left has to be removed first"),
            e => failed(e.into()),
        })?;
        Ok(Self(Kind::Unix { listener, _file: Removed(path.to_owned()) }))
    }

    /// The address of a port.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Tcp(listener) => listener.local_addr().ok(),
            Kind::Unix { .. } => None,
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Connection> {
        match &self.0 {
            Kind::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                // A client may be silent for days, but not gone.
                rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
                let (reader, writer) = stream.into_split();
                Ok((Box::new(reader), Box::new(writer)))
            }
            Kind::Unix { listener, .. } => {
                let (reader, writer) = listener.accept().await?.0.into_split();
                Ok((Box::new(reader), Box::new(writer)))
            }
        }
    }
}
