//! Who may connect: whoever bears a token that was given out a moment ago.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::{Error, Kind, Request};

/// How long a token can be used.
pub(crate) const LIFE: Duration = Duration::from_secs(60);
/// How many there may be at a time.
pub(crate) const LIMIT: usize = 1000;
/// Random bytes of a token: eight characters.
const LENGTH: usize = 6;

/// The tokens that were given out and not used yet.
#[derive(Debug, Default)]
pub(crate) struct Tokens(HashMap<String, (Instant, Request)>);

impl Tokens {
    /// A new token for a request.
    pub(crate) fn insert(&mut self, request: Request, now: Instant) -> Result<String, Error> {
        if self.0.len() >= LIMIT {
            self.0.retain(|_, (made, _)| now.duration_since(*made) < LIFE);
        }
        if self.0.len() >= LIMIT {
            let message = format!(
                "{LIMIT} URLs for exec, attach and port-forward are waiting to be used: try again within a minute"
            );
            return Err(Error::new(Kind::Exhausted, message));
        }
        loop {
            let token = random()?;
            if !self.0.contains_key(&token) {
                self.0.insert(token.clone(), (now, request));
                return Ok(token);
            }
        }
    }

    /// The request that a token stands for: once, while it is valid, and for that verb only.
    pub(crate) fn take(&mut self, verb: &str, token: &str, now: Instant) -> Option<Request> {
        let (_, request) = self.0.get(token)?;
        if request.verb() != verb {
            return None;
        }
        let (made, request) = self.0.remove(token)?;
        (now.duration_since(made) < LIFE).then_some(request)
    }
}

fn random() -> Result<String, Error> {
    let mut bytes = [0; LENGTH];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(LENGTH) => Ok(URL_SAFE_NO_PAD.encode(bytes)),
        other => {
            let errno = other.err().unwrap_or(rustix::io::Errno::IO);
            Err(Error::io(errno.into(), "getrandom"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PortForward;

    fn request(number: usize) -> Request {
        Request::PortForward(PortForward { sandbox: number.to_string(), ports: Vec::new() })
    }

    #[test]
    fn a_token_works_once_and_for_a_minute() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let token = tokens.insert(request(1), now).unwrap();
        assert_eq!(token.len(), 8);
        assert_eq!(tokens.take("exec", &token, now), None);
        assert_eq!(tokens.take("portforward", &token, now), Some(request(1)));
        assert_eq!(tokens.take("portforward", &token, now), None);
        let token = tokens.insert(request(2), now).unwrap();
        assert_eq!(tokens.take("portforward", &token, now + LIFE), None);
        assert_eq!(tokens.take("portforward", "", now), None);
    }

    #[test]
    fn there_are_only_so_many() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let all: Vec<_> = (0..LIMIT).map(|number| tokens.insert(request(number), now).unwrap()).collect();
        assert_eq!(tokens.insert(request(0), now).unwrap_err().kind(), Kind::Exhausted);
        tokens.take("portforward", &all[0], now).unwrap();
        tokens.insert(request(0), now).unwrap();
        assert!(tokens.insert(request(0), now).is_err());
        // A minute later nobody will come for them any more.
        tokens.insert(request(0), now + LIFE).unwrap();
        assert_eq!(tokens.0.len(), 1);
    }
}
