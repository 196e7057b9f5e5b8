//! Tokens of service accounts: JSON Web Tokens (RFC 7519) signed with ECDSA on P-256 and SHA-256 (ES256, RFC 7518).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Who issues our tokens, and whom they are for where nothing else is asked.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A token is some 1,200 bytes; a header of ours takes no more than this anyway.
const LONGEST: usize = 16 << 10;

/// What a token says (`privateClaims` and the registered ones of RFC 7519).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Claims {
    /// For whom it is meant.
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) aud: Vec<String>,
    /// Seconds since 1970 at which it ends.
    pub(crate) exp: i64,
    pub(crate) iat: i64,
    pub(crate) iss: String,
    /// Names this token among all.
    #[serde(default)]
    pub(crate) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) bound: Bound,
    pub(crate) nbf: i64,
    pub(crate) sub: String,
}

/// The objects that the token ends with.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Bound {
    pub(crate) namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Reference>,
    pub(crate) serviceaccount: Reference,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Why a token is not one of ours, or no longer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refused {
    Audience,
    Expired,
    Issuer,
    Malformed,
    NotYet,
    Signature,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Audience => "token audiences is invalid for the target audiences",
            Self::Expired => "service account token has expired",
            Self::Issuer => "service account token has an unknown issuer",
            Self::Malformed => "token is malformed",
            Self::NotYet => "service account token is not valid yet",
            Self::Signature => "invalid signature",
        })
    }
}

/// The key that signs tokens, and says which are signed with it.
#[derive(Clone, Debug)]
pub struct Signer(Arc<Keys>);

#[derive(Debug)]
struct Keys {
    pair: EcdsaKeyPair,
    /// Names the key: SHA-256 of its public half, as Kubernetes does it.
    id: String,
}

impl Signer {
    /// From the private key in PKCS #8.
    ///
    /// # Errors
    /// Where it is no key on P-256.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, aws_lc_rs::error::KeyRejected> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der)?;
        let id = URL_SAFE_NO_PAD.encode(digest(&SHA256, &public_info(pair.public_key().as_ref())));
        Ok(Self(Arc::new(Keys { pair, id })))
    }

    /// The token of these claims; `None` where the system has no randomness to give.
    pub(crate) fn sign(&self, claims: &Claims) -> Option<String> {
        let header = json!({ "alg": "ES256", "kid": self.0.id }).to_string();
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(claims).ok()?, &mut token);
        let signature = self.0.pair.sign(&SystemRandom::new(), token.as_bytes()).ok()?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Some(token)
    }

    /// What a token of ours says, that is meant for one of the audiences and valid at `now` (seconds since 1970).
    pub(crate) fn verify(&self, token: &str, audiences: &[String], now: i64) -> Result<Claims, Refused> {
        if token.len() > LONGEST {
            return Err(Refused::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Refused::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Refused::Malformed)?;
        let header: Value = decode(header)?;
        // The algorithm is ours to say: a token cannot choose another, or none.
        if header.get("alg").and_then(Value::as_str) != Some("ES256") {
            return Err(Refused::Signature);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refused::Malformed)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.0.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| Refused::Signature)?;
        let claims: Claims = decode(payload)?;
        if claims.iss != ISSUER {
            return Err(Refused::Issuer);
        }
        if now >= claims.exp {
            return Err(Refused::Expired);
        }
        if now < claims.nbf {
            return Err(Refused::NotYet);
        }
        match claims.aud.iter().any(|aud| audiences.contains(aud)) {
            true => Ok(claims),
            false => Err(Refused::Audience),
        }
    }

    /// The public key as a JSON Web Key Set (RFC 7517), for those who verify tokens themselves.
    pub(crate) fn key_set(&self) -> Value {
        // SEC 1: 04, then the two coordinates.
        let point = self.0.pair.public_key().as_ref();
        let (x, y) = point.get(1..).unwrap_or_default().split_at(32);
        json!({ "keys": [{
            "use": "sig", "kty": "EC", "kid": self.0.id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }] })
    }
}

/// SubjectPublicKeyInfo (RFC 5480) of an uncompressed point on P-256.
fn public_info(point: &[u8]) -> Vec<u8> {
    const START: [u8; 26] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
        0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    [&START, point].concat()
}

fn decode<T: for<'a> Deserialize<'a>>(part: &str) -> Result<T, Refused> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Refused::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Refused::Malformed)
}

/// RFC 7519, 4.1.3: one audience may stand alone.
fn one_or_many<'a, D: serde::Deserializer<'a>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Many(Vec<String>),
        One(String),
    }
    Ok(match Form::deserialize(from)? {
        Form::Many(all) => all,
        Form::One(one) => vec![one],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> Signer {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        Signer::from_pkcs8(key.serialized_der()).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            aud: vec![ISSUER.to_owned()],
            exp: 2_000,
            iat: 1_000,
            iss: ISSUER.to_owned(),
            jti: "j".to_owned(),
            bound: Bound {
                namespace: "default".to_owned(),
                serviceaccount: Reference { name: "web".to_owned(), uid: "1".to_owned() },
                ..Bound::default()
            },
            nbf: 1_000,
            sub: "system:serviceaccount:default:web".to_owned(),
        }
    }

    fn ours() -> Vec<String> {
        vec![ISSUER.to_owned()]
    }

    #[test]
    fn what_was_signed_is_read_again() {
        let signer = signer();
        let token = signer.sign(&claims()).unwrap();
        assert_eq!(signer.verify(&token, &ours(), 1_500), Ok(claims()));
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let value: Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(value["kubernetes.io"]["serviceaccount"]["name"], "web");
        assert_eq!(value["kubernetes.io"].get("pod"), None);
    }

    #[test]
    fn time_and_audience_are_looked_at() {
        let signer = signer();
        let token = signer.sign(&claims()).unwrap();
        assert_eq!(signer.verify(&token, &ours(), 2_000), Err(Refused::Expired));
        assert_eq!(signer.verify(&token, &ours(), 999), Err(Refused::NotYet));
        assert_eq!(signer.verify(&token, &["vault".to_owned()], 1_500), Err(Refused::Audience));
        let other = Claims { iss: "https://elsewhere".to_owned(), ..claims() };
        assert_eq!(signer.verify(&signer.sign(&other).unwrap(), &ours(), 1_500), Err(Refused::Issuer));
    }

    #[test]
    fn forged_tokens_are_refused() {
        let (signer, stranger) = (signer(), signer());
        let token = signer.sign(&claims()).unwrap();
        assert_eq!(
            signer.verify(&stranger.sign(&claims()).unwrap(), &ours(), 1_500),
            Err(Refused::Signature)
        );
        let [header, payload, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
        let other = URL_SAFE_NO_PAD.encode(
            serde_json::to_vec(&Claims {
                sub: "system:serviceaccount:kube-system:admin".to_owned(),
                ..claims()
            })
            .unwrap(),
        );
        assert_eq!(
            signer.verify(&format!("{header}.{other}.{signature}"), &ours(), 1_500),
            Err(Refused::Signature)
        );
        for algorithm in ["none", "None", "HS256", "RS256", ""] {
            let header = URL_SAFE_NO_PAD.encode(json!({ "alg": algorithm }).to_string());
            for signature in ["", signature] {
                let forged = format!("{header}.{payload}.{signature}");
                assert_eq!(signer.verify(&forged, &ours(), 1_500), Err(Refused::Signature), "{algorithm}");
            }
        }
        for bad in ["", ".", "..", "a.b", "a.b.c", &"x".repeat(20_000), &format!("{token}.")] {
            assert!(signer.verify(bad, &ours(), 1_500).is_err(), "{bad:.20}");
        }
    }

    #[test]
    fn the_key_is_published() {
        let set = signer().key_set();
        assert_eq!(set["keys"][0]["crv"], "P-256");
        assert_eq!(set["keys"][0]["x"].as_str().unwrap().len(), 43);
        assert_eq!(set["keys"][0]["y"].as_str().unwrap().len(), 43);
    }
}
