//! The last lines of a command: what it moved and what it asked of the store.

use cuttle::store::{Ledger, Store};

use super::{Context, human};

/// Tells what was asked of the store, for who wants to know: the other commands have this in their summary.
pub fn note_requests(context: &Context<'_>, store: &Store) {
    if context.ui.verbose() > 0 {
        context.ui.note(&ledger_line(&store.ledger()));
    }
}

/// `requests: 12 put, 5 get, 3 head, 2 list, 0 delete; sent 18.3 MiB, received 20.1 KiB`
pub fn ledger_line(ledger: &Ledger) -> String {
    let kinds = [
        (ledger.put_requests, "put"),
        (ledger.get_requests, "get"),
        (ledger.head_requests, "head"),
        (ledger.list_requests, "list"),
        (ledger.delete_requests, "delete"),
    ];
    let kinds: Vec<String> = kinds.iter().map(|(n, kind)| format!("{} {kind}", human::count(*n))).collect();
    let mut line = format!(
        "requests: {}; sent {}, received {}",
        kinds.join(", "),
        human::size(ledger.uploaded_bytes),
        human::size(ledger.downloaded_bytes)
    );
    if ledger.retries > 0 || ledger.throttled > 0 {
        line += &format!(
            "; {} tried again, {} slowed down by the store",
            human::count(ledger.retries),
            human::count(ledger.throttled)
        );
    }
    line
}
