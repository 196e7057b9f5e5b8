//! Packets of the shim's protocol: any bytes are a message or an error, and a message reads back as it was written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vaquita_shim::Event;
use vaquita_shim::wire::{Header, Request, Response, decode_event, encode_exited, is_event};

fuzz_target!(|packet: &[u8]| {
    let Ok((header, inline)) = Header::decode(packet) else { return };
    assert_eq!(&header.encode()[..], &packet[..8]);
    // A body in a memfd comes from elsewhere: the rest of the packet stands for it.
    let body = if header.spilled { &packet[8..] } else { inline };
    if let Ok(request) = Request::decode(header, body) {
        assert_eq!(request.code(), header.code);
        let again = request.encode();
        assert_eq!(Request::decode(header, &again), Ok(request));
        assert_eq!(again, body, "two encodings of one request");
    }
    if let Ok(response) = Response::decode(header, body) {
        assert_eq!(response.code(), header.code);
        assert_eq!(Response::decode(header, &response.encode()), Ok(response));
    }
    if is_event(header)
        && let Ok(event) = decode_event(header, body)
    {
        let Event::Exited(exited) = &event else { panic!("another event: {event:?}") };
        assert_eq!(decode_event(header, &encode_exited(exited)), Ok(event));
    }
});
