//! Registries behind an HTTP proxy.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use vaquita_image::{Kind, Proxies, Reference, Registries};

use crate::hosts::hosts;
use crate::pull::small;
use crate::registry::{Registry, Reply};
use crate::tls::server;
use crate::{Place, impatient};

/// The first line of a request, and `Proxy-Authorization`.
#[derive(Clone, Debug, PartialEq)]
struct Head {
    line: String,
    authorization: Option<String>,
}

/// A proxy that notes what it is asked for, and leads everything to one address.
struct Proxy {
    address: String,
    seen: Arc<Mutex<Vec<Head>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    async fn start(target: std::net::SocketAddr, answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(Self::serve(stream, target, answer, Arc::clone(&log)));
            }
        });
        Self { address, seen, task }
    }

    async fn serve(
        stream: TcpStream,
        target: std::net::SocketAddr,
        answer: &'static str,
        log: Arc<Mutex<Vec<Head>>>,
    ) {
        let mut client = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if client.read_line(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let first = head.lines().next().unwrap_or_default().to_owned();
        let authorization =
            head.lines().find_map(|line| line.strip_prefix("proxy-authorization: ").map(str::to_owned));
        log.lock().unwrap().push(Head { line: first.clone(), authorization });
        let mut server = TcpStream::connect(target).await.unwrap();
        if first.starts_with("CONNECT ") {
            client.get_mut().write_all(answer.as_bytes()).await.unwrap();
        } else {
            server.write_all(head.as_bytes()).await.unwrap();
        }
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }

    fn variables(&self, no: &str) -> Proxies {
        let url = format!("http://us%65r:pass@{}/", self.address);
        let no = no.to_owned();
        Proxies::from_variables(move |name| match name {
            "HTTPS_PROXY" | "http_proxy" => Some(url.clone()),
            "NO_PROXY" => Some(no.clone()),
            _ => None,
        })
    }

    fn seen(&self) -> Vec<Head> {
        self.seen.lock().unwrap().clone()
    }
}

const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

#[tokio::test]
async fn through_a_proxy() {
    let place = Place::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let made =
        rcgen::CertificateParams::new(vec!["registry.invalid".into()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(place.dir.path().join("ca.pem"), made.pem()).unwrap();
    let content = small();
    let tls = Some(server(None, made.der().clone(), &key));
    let secure = Registry::start_with(tls, {
        let content = content.clone();
        move |ask| content.answer(ask)
    })
    .await;
    // What it is asked for begins with the whole URL then.
    let plain = Registry::start(move |ask| {
        assert!(ask.headers["host"] == "plain.invalid:5000", "{:?}", ask.headers);
        content.answer(ask)
    })
    .await;
    let user = Some("Basic dXNlcjpwYXNz".to_owned());
    let by_https = Reference::parse("registry.invalid:7000/a").unwrap();
    let proxy = Proxy::start(secure.address, ESTABLISHED).await;
    let mut registries = hosts(&place, "registry.invalid:7000", "ca = \"../../ca.pem\"");
    registries.proxies = proxy.variables("");
    place.store.pull(&by_https, None, &registries).await.unwrap();
    assert!(
        proxy
            .seen()
            .iter()
            .all(|head| head.line == "CONNECT registry.invalid:7000 HTTP/1.1" && head.authorization == user)
    );
    assert!(secure.seen().iter().all(|ask| !ask.headers.contains_key("proxy-authorization")));

    let proxy = Proxy::start(plain.address, "").await;
    let mut registries = hosts(&place, "plain.invalid:5000", "server = \"http://plain.invalid:5000\"");
    registries.proxies = proxy.variables("");
    let by_http = Reference::parse("plain.invalid:5000/a").unwrap();
    place.store.pull(&by_http, None, &registries).await.unwrap();
    let line = "GET http://plain.invalid:5000/v2/a/manifests/latest HTTP/1.1".to_owned();
    let first = Head { line, authorization: user };
    assert_eq!(proxy.seen()[0], first);

    // Directly the name does not lead anywhere.
    let count = proxy.seen().len();
    registries.proxies = proxy.variables("127.0.0.0/8,plain.invalid:5000");
    assert_eq!(place.store.pull(&by_http, None, &registries).await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(proxy.seen().len(), count);
}

#[tokio::test]
async fn a_proxy_that_does_not_help_is_named_without_its_password() {
    let place = Place::new();
    let reference = Reference::parse("registry.invalid/a").unwrap();
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let pull = async |proxies| {
        let registries = Registries { proxies, ..impatient() };
        assert!(!format!("{registries:?}").contains("pass"));
        let told = place.store.pull(&reference, None, &registries).await.unwrap_err().to_string();
        assert!(!told.contains("pass"), "{told}");
        told
    };
    for (answer, part) in [
        ("HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n", "other credentials"),
        ("HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n", "403 Forbidden"),
        ("HTTP/1.1 502 No\r\ncontent-length: 0\r\n\r\n", "502 Bad Gateway"),
    ] {
        let listener = Registry::start(|_| Reply::status(404)).await;
        let proxy = Proxy::start(listener.address, answer).await;
        let told = pull(proxy.variables("")).await;
        assert!(told.contains(&format!("proxy http://{}", proxy.address)) && told.contains(part), "{told}");
    }
    let gone = pull(Proxies::from_variables(|name| {
        (name == "HTTPS_PROXY").then(|| format!("http://u:pass@{target}"))
    }))
    .await;
    assert!(gone.contains("proxy http://127.0.0.1") && gone.contains("refused"), "{gone}");
    let odd = pull(Proxies::from_variables(|_| Some("socks5://u:pass@x".into()))).await;
    assert!(odd.contains("HTTPS_PROXY") && odd.contains("SOCKS"), "{odd}");
}
