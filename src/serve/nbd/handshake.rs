//! Option haggling: a client says who it is and what it wants, until it has chosen an export or leaves.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::timeout;

use super::exports::{Exports, Opened};
use super::output::Output;
use super::wire::option::{
    CLIENT_FLAGS_LEN_BYTES, ClientFlags, ClientOption, InfoRequest, MetaRequest, OPTION_HEADER_LEN_BYTES,
    OPTION_LEN_BYTES_MAX, OptionError, OptionHeader, OptionReply, export_name_reply, greeting,
};
use super::wire::{self, BASE_ALLOCATION, BASE_ALLOCATION_ID, Malformed};
use super::{Limits, READ_LEN_BYTES_MAX};
use crate::error::{Error, ErrorKind};

/// Replies to an option are written when there is so much of them.
const REPLY_BATCH_BYTES: usize = 64 << 10;
/// What a client may ask for at once, as told to those who ask.
const BLOCK_SIZE: OptionReply<'static> = OptionReply::InfoBlockSize {
    min_bytes: 1,
    preferred_bytes: 4 << 10,
    payload_bytes_max: READ_LEN_BYTES_MAX,
};

/// What both sides have agreed on.
pub(super) struct Agreed {
    pub opened: Opened,
    /// A place among those who read.
    pub _seat: OwnedSemaphorePermit,
    pub structured: bool,
    /// Whether the client may ask what is zero.
    pub allocation: bool,
}

/// What a server has for those who come.
pub(super) struct Offer<'a> {
    pub exports: &'a dyn Exports,
    /// Places for those who read.
    pub seats: &'a Arc<Semaphore>,
}

/// The way through one handshake.
struct Haggling<'a, W> {
    offer: Offer<'a>,
    output: &'a Output<W>,
    client: ClientFlags,
    structured: bool,
    /// The export for which `base:allocation` was chosen.
    allocation_of: Option<String>,
}

/// What comes after an option.
enum Next {
    Option,
    Transmission(Box<Agreed>),
    Leave,
}

/// Haggles until an export is chosen. `None` where the client leaves without; an error where it breaks the rules.
pub(super) async fn haggle<R, W>(
    reader: &mut R,
    output: &Output<W>,
    offer: Offer<'_>,
    limits: &Limits,
) -> io::Result<Option<Agreed>>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    output.send(&greeting(), &[]).await?;
    let mut flags = [0; CLIENT_FLAGS_LEN_BYTES];
    within(limits, reader.read_exact(&mut flags)).await?;
    let client = ClientFlags::parse(flags).map_err(broken)?;
    let mut haggling = Haggling { offer, output, client, structured: false, allocation_of: None };
    loop {
        let mut header = [0; OPTION_HEADER_LEN_BYTES];
        if reader.read(&mut header[..1]).await? == 0 {
            return Ok(None);
        }
        within(limits, reader.read_exact(&mut header[1..])).await?;
        let header = OptionHeader::parse(header).map_err(broken)?;
        if header.data_len_bytes > OPTION_LEN_BYTES_MAX {
            return Err(broken(Malformed("an option is longer than any that makes sense")));
        }
        let mut data = vec![0; header.data_len_bytes as usize];
        within(limits, reader.read_exact(&mut data)).await?;
        match haggling.answer(header.code, &data).await? {
            Next::Option => {}
            Next::Leave => return Ok(None),
            Next::Transmission(agreed) => return Ok(Some(*agreed)),
        }
    }
}

impl<W: AsyncWrite + Unpin> Haggling<'_, W> {
    async fn answer(&mut self, code: u32, data: &[u8]) -> io::Result<Next> {
        let option = match ClientOption::parse(code, data) {
            Ok(option) => option,
            // Neither can be told that something is wrong.
            Err(why) if code == 1 || !self.client.is_fixed => return Err(broken(why)),
            Err(why) => return self.refuse(code, OptionError::Invalid, why.0).await,
        };
        match option {
            ClientOption::ExportName(name) => self.export_name(name).await,
            _ if !self.client.is_fixed => Err(broken(Malformed("an option without fixed newstyle"))),
            ClientOption::Abort => {
                // The client may have gone already.
                let _ = self.reply(code, OptionReply::Ack).await;
                Ok(Next::Leave)
            }
            ClientOption::List => self.list(code).await,
            ClientOption::Info(request) => self.info(code, &request).await.map(|_| Next::Option),
            ClientOption::Go(request) => self.go(code, &request).await,
            ClientOption::StructuredReply => {
                self.structured = true;
                self.reply(code, OptionReply::Ack).await
            }
            ClientOption::ListMetaContext(request) => self.list_contexts(code, &request).await,
            ClientOption::SetMetaContext(request) => self.set_contexts(code, &request).await,
            ClientOption::StartTls => {
                self.refuse(code, OptionError::Unsupported, "this server has no TLS").await
            }
            ClientOption::Unknown => {
                self.refuse(code, OptionError::Unsupported, "this server does not know the option").await
            }
        }
    }

    async fn export_name(&self, name: &str) -> io::Result<Next> {
        // There is no way to say why not, but to leave.
        let opened = self.offer.exports.open(name).await.map_err(io::Error::other)?;
        let seat = self.seat().map_err(io::Error::other)?;
        let reply = export_name_reply(opened.image.size_bytes(), self.flags(), self.client);
        self.output.send(&reply, &[]).await?;
        Ok(self.agreed(name, opened, seat))
    }

    async fn go(&self, code: u32, request: &InfoRequest<'_>) -> io::Result<Next> {
        // Before the reply, which says that it may begin.
        let Ok(seat) = self.seat() else {
            return self.refuse(code, OptionError::Policy, "as many clients as may are reading").await;
        };
        let opened = self.info(code, request).await?;
        Ok(opened.map_or(Next::Option, |opened| self.agreed(request.export, opened, seat)))
    }

    fn seat(&self) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        Arc::clone(self.offer.seats).try_acquire_owned()
    }

    async fn list(&self, code: u32) -> io::Result<Next> {
        let listed = match self.offer.exports.list().await {
            Ok(listed) => listed,
            Err(e) => return self.refuse_because(code, &e).await,
        };
        let mut out = Vec::new();
        for one in &listed {
            OptionReply::Server { name: &one.name, description: &one.description }.write(code, &mut out);
            if out.len() >= REPLY_BATCH_BYTES {
                self.output.send(&out, &[]).await?;
                out.clear();
            }
        }
        OptionReply::Ack.write(code, &mut out);
        self.output.send(&out, &[]).await?;
        Ok(Next::Option)
    }

    /// Tells of an export. `None` where it was refused.
    async fn info(&self, code: u32, request: &InfoRequest<'_>) -> io::Result<Option<Opened>> {
        let opened = match self.offer.exports.open(request.export).await {
            Ok(opened) => opened,
            Err(e) => {
                self.refuse_because(code, &e).await?;
                return Ok(None);
            }
        };
        let flags = self.flags();
        let mut out = Vec::new();
        OptionReply::InfoExport { size_bytes: opened.image.size_bytes(), flags }.write(code, &mut out);
        let wanted = [
            request.wants_name.then_some(OptionReply::InfoName(&opened.name)),
            request.wants_description.then_some(OptionReply::InfoDescription(&opened.description)),
            request.wants_block_size.then_some(BLOCK_SIZE),
            Some(OptionReply::Ack),
        ];
        wanted.iter().flatten().for_each(|reply| reply.write(code, &mut out));
        self.output.send(&out, &[]).await?;
        Ok(Some(opened))
    }

    async fn list_contexts(&self, code: u32, request: &MetaRequest<'_>) -> io::Result<Next> {
        let is_listed = |query: &&str| matches!(*query, "base:" | BASE_ALLOCATION);
        let shown = request.queries.is_empty() || request.queries.iter().any(is_listed);
        self.contexts(code, request.export, shown, 0).await
    }

    async fn set_contexts(&mut self, code: u32, request: &MetaRequest<'_>) -> io::Result<Next> {
        self.allocation_of = None;
        if !self.structured {
            return self.refuse(code, OptionError::Invalid, "structured replies were not asked for").await;
        }
        let chosen = request.queries.contains(&BASE_ALLOCATION);
        if chosen {
            self.allocation_of = Some(request.export.to_owned());
        }
        self.contexts(code, request.export, chosen, BASE_ALLOCATION_ID).await
    }

    async fn contexts(&self, code: u32, export: &str, shown: bool, id: u32) -> io::Result<Next> {
        if let Err(e) = self.offer.exports.open(export).await {
            return self.refuse_because(code, &e).await;
        }
        let mut out = Vec::new();
        if shown {
            OptionReply::MetaContext { id, name: BASE_ALLOCATION }.write(code, &mut out);
        }
        OptionReply::Ack.write(code, &mut out);
        self.output.send(&out, &[]).await?;
        Ok(Next::Option)
    }

    fn flags(&self) -> u16 {
        let df = if self.structured { wire::SEND_DF } else { 0 };
        wire::HAS_FLAGS | wire::READ_ONLY | wire::SEND_FLUSH | wire::CAN_MULTI_CONN | df
    }

    fn agreed(&self, export: &str, opened: Opened, seat: OwnedSemaphorePermit) -> Next {
        // A context counts only for the export that it was chosen for.
        let allocation = self.allocation_of.as_deref() == Some(export);
        Next::Transmission(Box::new(Agreed { opened, _seat: seat, structured: self.structured, allocation }))
    }

    async fn refuse_because(&self, code: u32, error: &Error) -> io::Result<Next> {
        let kind = match error.kind() {
            ErrorKind::NotFound | ErrorKind::Invalid => OptionError::Unknown,
            _ => OptionError::Policy,
        };
        self.refuse(code, kind, error.message()).await
    }

    async fn refuse(&self, code: u32, error: OptionError, message: &str) -> io::Result<Next> {
        self.reply(code, OptionReply::Error(error, message)).await
    }

    async fn reply(&self, code: u32, reply: OptionReply<'_>) -> io::Result<Next> {
        let mut out = Vec::new();
        reply.write(code, &mut out);
        self.output.send(&out, &[]).await?;
        Ok(Next::Option)
    }
}

/// A client that has begun to say something has to go on.
async fn within<T>(limits: &Limits, read: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limits.message_timeout, read).await.map_err(|_| io::ErrorKind::TimedOut)?
}

pub(super) fn broken(why: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.0)
}
