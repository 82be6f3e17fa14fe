//! `cuttle serve`: snapshots over the network, read-only.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use zeroize::Zeroizing;

use cuttle::error::io_error;
use cuttle::reading::snapshot::MEMORY_BYTES_DEFAULT;
use cuttle::serve::Shelf;
use cuttle::serve::http::{Access, HttpOptions, HttpServer, Limits, Tls, Token};
use cuttle::serve::nbd::{self, Listener, exports::Exports};
use cuttle::{Error, Result};

use super::connect::refuse_dry_run;
use super::environment::SERVE_TOKEN;
use super::human::parse_size_nonzero;
use super::report::{Report, lines, note_requests};
use super::{Context, Exit, connect, human};

/// Shortest token, in bytes: what can be guessed protects nothing.
const TOKEN_LEN_BYTES_MIN: usize = 16;
const TOKEN_LEN_BYTES_MAX: u64 = 1024;
/// The port that IANA reserved for NBD.
const NBD_DEFAULT: &str = "127.0.0.1:10809";

const EXAMPLES: &str = "\
Each snapshot is a file that can be read at any offset: http://ADDRESS/VOLUME/SEQ.raw, and VOLUME/latest.raw. The page at /
shows them all, with commands for each; /index.json is the same for programs. What is served is what there was when it
began, so an image never changes under a reader. Only what is read is fetched from the repository.

On 127.0.0.1 every user of this machine may read. On any other address a token is asked for: as a Bearer token, as the
password of any user, or in the path (http://ADDRESS/@TOKEN/VOLUME/SEQ.raw).

With --nbd or --nbd-socket the same snapshots are NBD exports as well, VOLUME/SEQ and VOLUME/latest, with their holes; a single
one is the default export too. NBD knows no token.

Examples:
  cuttle serve                                     all snapshots of the project, on 127.0.0.1:8420
  cuttle serve vms/db@12                           one snapshot
  qemu-img convert -O qcow2 http://127.0.0.1:8420/vms/db/12.raw db.qcow2
  cuttle serve --nbd                               over NBD too, on 127.0.0.1:10809
  nbdcopy nbd://127.0.0.1/vms/db/12 db.raw         or nbdinfo --list nbd://127.0.0.1, qemu-nbd -r -c /dev/nbd0 …
  curl -r 0-511 http://127.0.0.1:8420/vms/db/latest.raw | xxd
  cuttle serve --listen 10.0.0.5:8420 --token-file /etc/cuttle/serve-token --tls-cert cert.pem --tls-key key.pem";

/// Serve snapshots over HTTP, read-only, as raw images
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Only this snapshot
    snapshot: Option<String>,
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8420")]
    listen: SocketAddr,
    /// File with the token that readers must name; else CUTTLE_SERVE_TOKEN has it
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Let everybody read who can reach the address
    #[arg(long, conflicts_with = "token_file")]
    insecure_public: bool,
    /// Certificate chain, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Serve over NBD too [default address: 127.0.0.1:10809]
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1, require_equals = true, default_missing_value = NBD_DEFAULT)]
    nbd: Option<SocketAddr>,
    /// Serve over NBD on a socket that only this user may use
    #[arg(long, value_name = "PATH")]
    nbd_socket: Option<PathBuf>,
    /// Memory for chunks, those that are fetched and those that are kept
    #[arg(long, value_name = "SIZE", value_parser = parse_size_nonzero)]
    memory: Option<u64>,
}

#[derive(Serialize)]
struct Serving<'a> {
    url: &'a str,
    nbd: Option<String>,
    snapshots: usize,
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    refuse_dry_run(context, "serve", "it only reads, and shows what there is until it is told to end")?;
    // Refused before anyone types a password.
    let access = access(&args)?;
    let tls = match args.tls_cert.as_deref().zip(args.tls_key.as_deref()) {
        Some((cert, key)) => Some(Tls::from_files(cert, key)?),
        None => None,
    };
    if matches!(access, Access::Token(_)) && tls.is_none() && !args.listen.ip().is_loopback() {
        context.ui.warn("without --tls-cert the token and the data can be read on the network");
    }
    let project = connect::data(context).await?;
    let memory_bytes = args.memory.unwrap_or(MEMORY_BYTES_DEFAULT);
    let shelf = match &args.snapshot {
        None => Shelf::of_project(&project, memory_bytes).await?,
        Some(spec) => {
            Shelf::of_snapshots(&project, vec![project.volumes().snapshot(spec).await?], memory_bytes)
        }
    };
    let snapshots = shelf.volumes().map(|(_, all)| all.len()).sum();
    let shelf = Arc::new(shelf);
    let nbd = NbdServers::bind(&args).await?;
    let options =
        HttpOptions { listen: args.listen, access, tls, nbd: nbd.address(), limits: Limits::default() };
    let server = HttpServer::bind(Arc::clone(&shelf), options).await?;
    let (ui, url) = (context.ui, server.url());
    let at_nbd = nbd.address().map(|address| format!("nbd://{address}"));
    ui.report(&Serving { url: &url, nbd: at_nbd, snapshots })?;
    ui.remark("stop it with Ctrl-C");
    let (served, ()) = tokio::join!(server.run(context.cancel.clone()), nbd.run(shelf, context));
    served?;
    note_requests(context, project.repository().store());
    Ok(Exit::Success)
}

impl Report for Serving<'_> {
    const MESSAGE_TYPE: &'static str = "serving";

    fn answer(&self) -> String {
        let serving = human::counted(self.snapshots as u64, "snapshot");
        let nbd = self.nbd.as_ref().map(|address| format!("and at {address}/VOLUME/SEQ"));
        lines([format!("serving {serving} at {}/", self.url), nbd.unwrap_or_default()])
    }
}

/// The servers for NBD that were asked for: none, one or two.
struct NbdServers(Vec<Listener>);

impl NbdServers {
    async fn bind(args: &Args) -> Result<Self> {
        let mut listeners = Vec::new();
        if let Some(address) = args.nbd {
            listeners.push(Listener::tcp(address, args.insecure_public).await?);
        }
        if let Some(path) = &args.nbd_socket {
            listeners.push(Listener::unix(path)?);
        }
        Ok(Self(listeners))
    }

    fn address(&self) -> Option<SocketAddr> {
        self.0.iter().find_map(Listener::address)
    }

    async fn run(self, shelf: Arc<Shelf>, context: &Context<'_>) {
        let serve = |listener| {
            let exports: Arc<dyn Exports> = shelf.clone();
            nbd::serve(listener, exports, nbd::Limits::default(), context.cancel.clone())
        };
        futures::future::join_all(self.0.into_iter().map(serve)).await;
    }
}

fn access(args: &Args) -> Result<Access> {
    let token = match &args.token_file {
        Some(path) => Some((token_in(path)?, path.display().to_string())),
        None => SERVE_TOKEN.text()?.map(|token| (Zeroizing::new(token), SERVE_TOKEN.name.to_owned())),
    };
    match token {
        _ if args.insecure_public => Ok(Access::Anybody),
        Some((token, _)) if token.len() >= TOKEN_LEN_BYTES_MIN => Ok(Access::Token(Token::new(&token))),
        Some((token, place)) => Err(Error::invalid(format!(
            "{place}: a token of {} bytes, expected at least {TOKEN_LEN_BYTES_MIN}",
            token.len()
        ))
        .help("make one with: openssl rand -hex 24")),
        None if args.listen.ip().is_loopback() => Ok(Access::ThisMachine),
        None => Err(Error::invalid(format!("{} can be reached from other machines", args.listen)).help(
            "name a token with --token-file or CUTTLE_SERVE_TOKEN, or let everybody read with --insecure-public",
        )),
    }
}

fn token_in(path: &Path) -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(TOKEN_LEN_BYTES_MAX as usize + 1));
    File::open(path)
        .and_then(|file| file.take(TOKEN_LEN_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|e| io_error(format!("read the token file {}", path.display()), e))?;
    if text.len() as u64 > TOKEN_LEN_BYTES_MAX {
        return Err(Error::invalid(format!(
            "{}: expected at most {TOKEN_LEN_BYTES_MAX} bytes",
            path.display()
        )));
    }
    Ok(Zeroizing::new(text.trim().to_owned()))
}
