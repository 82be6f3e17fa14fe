//! Any bytes from an NBD client: refused, or exactly what they say, within the limits.
#![no_main]

use cuttle::nbd_wire::STRING_LEN_MAX;
use cuttle::nbd_wire::option::{ClientFlags, ClientOption, InfoRequest, MetaRequest, OptionHeader};
use cuttle::nbd_wire::request::Request;

fn string(text: &str) -> Vec<u8> {
    assert!(text.len() <= STRING_LEN_MAX && !text.contains('\0'));
    [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
}

/// Whether the data is what the option says, up to what is not kept.
fn check(option: &ClientOption<'_>, data: &[u8]) {
    match option {
        ClientOption::ExportName(name) => assert_eq!(name.as_bytes(), data),
        ClientOption::Info(InfoRequest { export, .. }) | ClientOption::Go(InfoRequest { export, .. }) => {
            let rest = data.strip_prefix(&string(export)[..]).expect("the name comes first");
            let count = u16::from_be_bytes([rest[0], rest[1]]);
            assert_eq!(rest.len(), 2 + 2 * usize::from(count));
        }
        ClientOption::ListMetaContext(request) | ClientOption::SetMetaContext(request) => {
            let MetaRequest { export, queries } = request;
            let mut again = string(export);
            again.extend((queries.len() as u32).to_be_bytes());
            again.extend(queries.iter().flat_map(|query| string(query)));
            assert_eq!(again, data);
        }
        ClientOption::List | ClientOption::StartTls | ClientOption::StructuredReply => {
            assert!(data.is_empty());
        }
        ClientOption::Abort | ClientOption::Unknown => {}
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some(head) = data.first_chunk() {
        if let Ok(flags) = ClientFlags::parse(*head) {
            let again = u32::from(flags.is_fixed) | u32::from(flags.no_zeroes) << 1;
            assert_eq!(again.to_be_bytes(), *head);
        }
    }
    if let Some(head) = data.first_chunk() {
        if let Ok(OptionHeader { code, data_len_bytes }) = OptionHeader::parse(*head) {
            let again = [b"IHAVEOPT", &code.to_be_bytes()[..], &data_len_bytes.to_be_bytes()].concat();
            assert_eq!(again, head);
        }
    }
    if let Some((code, rest)) = data.split_first() {
        if let Ok(option) = ClientOption::parse(u32::from(*code), rest) {
            check(&option, rest);
        }
    }
    if let Some(head) = data.first_chunk() {
        if let Ok(request) = Request::parse(head) {
            assert_eq!(request.cookie.to_be_bytes(), head[8..16]);
            for size in [0, 1 << 20, u64::MAX] {
                let wide = u128::from(request.offset_bytes) + u128::from(request.length_bytes);
                let expected = (wide <= u128::from(size)).then_some(wide as u64);
                assert_eq!(request.end_within(size), expected);
            }
        }
    }
});
