//! A request body in Kubernetes' protobuf: any bytes are an object within bounds, or an error of one line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vaquita_schema::decode::{Strictness, check};
use vaquita_schema::{protobuf, type_of};

fuzz_target!(|data: &[u8]| {
    match protobuf::decode(data) {
        Ok((api_version, kind, mut value)) => {
            assert_eq!((value["apiVersion"].as_str(), value["kind"].as_str()), (Some(&*api_version), Some(&*kind)));
            let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
            // What protobuf can say, the type has: nothing in it is unknown.
            if let Some(ty) = type_of(group, version, &kind) {
                let checked = check(&mut value, ty, Strictness::Strict);
                assert!(!checked.is_err_and(|error| error.kind() == vaquita_schema::Kind::Strict));
            }
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() < 8192 && !text.contains('\n'), "{text:?}");
        }
    }
});
