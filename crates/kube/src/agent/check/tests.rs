use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::client::Client;

/// A server that answers one request after another with these texts, and tells what it was asked.
async fn server(answers: Vec<String>) -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let len = stream.read(&mut request).await.unwrap();
            asked.send(String::from_utf8_lossy(&request[..len]).into_owned()).unwrap();
            let answer = answer.replace("PORT", &port.to_string());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (port, requests)
}

fn answer(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 2\r\n\r\nhi")
}

/// A container with this readiness probe.
fn container(probe: &str, port: u16) -> Container {
    let probe = probe.replace("PORT", &port.to_string());
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{{name: a, image: x, ports: [{{name: web, containerPort: {port}}}], readinessProbe: {{{probe}}}}}]}}\n"
    );
    let mut manifest =
        crate::manifest::read(&[("p", &text)]).unwrap_or_else(|problems| panic!("{problems:?}"));
    manifest.pods.remove(0).spec.containers.remove(0)
}

async fn run(probe_text: &str, port: u16) -> Outcome {
    let client = Client::connect(std::path::Path::new("/nonexistent")).unwrap();
    let cri = Cri::new(client, mpsc::unbounded_channel().0);
    probe(&cri, &container(probe_text, port), "id", ProbeKind::Readiness, "127.0.0.1", Words::Ours).await
}

#[tokio::test]
async fn http_statuses() {
    for (status, ok) in [
        ("200 OK", true),
        ("204 No Content", true),
        ("302 Found", true),
        ("399 X", true),
        ("404 Not Found", false),
        ("500 X", false),
    ] {
        let (port, mut requests) = server(vec![answer(status, "")]).await;
        let outcome = run("timeoutSeconds: 30, httpGet: {port: web, path: '/ready?x=1', httpHeaders: [{name: Host, value: example}, {name: X-A, value: b}]}", port).await;
        assert_eq!(matches!(outcome, Outcome::Success(_)), ok, "{status}: {outcome:?}");
        let request = requests.recv().await.unwrap().to_lowercase();
        assert!(request.starts_with("get /ready?x=1 http/1.1\r\n"), "{request}");
        for header in [
            "host: example\r\n",
            "x-a: b\r\n",
            "user-agent: kube-probe/",
            "accept: */*\r\n",
            "connection: close\r\n",
        ] {
            assert!(request.contains(header), "{header} in {request}");
        }
    }
}

#[tokio::test]
async fn redirects_stay_on_the_host() {
    let (port, _requests) =
        server(vec![answer("302 Found", "Location: /there\r\n"), answer("500 X", "")]).await;
    assert_eq!(
        run("timeoutSeconds: 30, httpGet: {port: PORT}", port).await,
        Outcome::Failure("HTTP 500".to_owned())
    );
    let (port, _requests) =
        server(vec![answer("301 Moved", "Location: http://elsewhere.invalid/\r\n")]).await;
    assert_eq!(
        run("timeoutSeconds: 30, httpGet: {port: PORT}", port).await,
        Outcome::Success("HTTP 301".to_owned())
    );
    let loops = vec![answer("302 Found", "Location: /\r\n"); 12];
    let (port, _requests) = server(loops).await;
    assert!(
        matches!(run("timeoutSeconds: 30, httpGet: {port: PORT}", port).await, Outcome::Failure(message) if message.contains("redirects"))
    );
}

#[tokio::test]
async fn nobody_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(run("tcpSocket: {port: PORT}", port).await, Outcome::Success(String::new()));
    // It listens and never answers.
    assert!(
        matches!(run("httpGet: {port: PORT}", port).await, Outcome::Failure(message) if message.contains("within 1 s"))
    );
    drop(listener);
    for probe in [
        "tcpSocket: {port: PORT}",
        "httpGet: {port: PORT}",
        "httpGet: {port: PORT, scheme: HTTPS}",
        "grpc: {port: PORT}",
    ] {
        assert!(
            matches!(run(probe, port).await, Outcome::Failure(message) if message.contains("onnect")),
            "{probe}"
        );
    }
}

#[tokio::test]
async fn grpc() {
    use health::health_check_response::ServingStatus;
    use health::health_server::{Health, HealthServer};
    struct Service;
    #[tonic::async_trait]
    impl Health for Service {
        async fn check(
            &self,
            request: tonic::Request<health::HealthCheckRequest>,
        ) -> std::result::Result<tonic::Response<health::HealthCheckResponse>, tonic::Status> {
            let status = match request.into_inner().service.as_str() {
                "" => ServingStatus::Serving,
                _ => ServingStatus::NotServing,
            };
            Ok(tonic::Response::new(health::HealthCheckResponse { status: status.into() }))
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(HealthServer::new(Service))
            .serve_with_incoming(incoming),
    );
    assert_eq!(
        run("timeoutSeconds: 30, grpc: {port: PORT}", port).await,
        Outcome::Success("SERVING".to_owned())
    );
    let down = Outcome::Failure("the service answers NOT_SERVING".to_owned());
    assert_eq!(run("timeoutSeconds: 30, grpc: {port: PORT, service: x}", port).await, down);
}
