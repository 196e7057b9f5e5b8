//! Credential helpers: `docker-credential-<name> get` (docker/docker-credential-helpers).

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::{Auth, Error, Kind};

/// Time that a helper may take: it may ask a cloud.
const TIME: Duration = Duration::from_secs(60);
/// Longest answer.
const LIMIT: u64 = 1 << 20;
/// The user name of an identity token.
const TOKEN: &str = "<token>";

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

/// Ends the helper and what it has started, also where nobody waits for it any more.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // `id` is none once it has been waited for: the number may be another's then.
        let group = self.0.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(group) = group {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

/// What the helper has for a server; `None` where it says that it has nothing.
pub(super) async fn get(name: &str, server: &str) -> Result<Option<Auth>, Error> {
    if name.is_empty() || name.contains(['/', '\0']) {
        return Err(Error::invalid(format!("credential helper {name:?} is not the end of a program's name")));
    }
    run(OsStr::new(&format!("docker-credential-{name}")), server, TIME).await
}

async fn run(program: &OsStr, server: &str, time: Duration) -> Result<Option<Auth>, Error> {
    let shown = program.to_string_lossy();
    let late =
        |_| Error::new(Kind::Timeout, format!("{shown} has not answered within {time:?}, and was ended"));
    let (succeeded, output) = tokio::time::timeout(time, talk(program, server))
        .await
        .map_err(late)?
        .map_err(|e| Error::io(format!("credential helper {shown}"), &e))?;
    if output.len() as u64 > LIMIT {
        return Err(Error::invalid(format!("{shown}: its answer is longer than {LIMIT} bytes")));
    }
    if !succeeded {
        let text = String::from_utf8_lossy(&output);
        return if text.contains("credentials not found") {
            Ok(None)
        } else {
            Err(Error::invalid(format!("{shown} get: {}", complaint(&text))))
        };
    }
    // The answer is not repeated: it holds the secret.
    let answer: Answer = serde_json::from_slice(&output).map_err(|_| {
        Error::invalid(format!("{shown} get: its answer is not JSON with Username and Secret"))
    })?;
    Ok(match (answer.username.as_str(), answer.secret) {
        (_, secret) if secret.is_empty() => None,
        (TOKEN, secret) => Some(Auth::IdentityToken(secret)),
        (username, password) => Some(Auth::Basic { username: username.to_owned(), password }),
    })
}

/// Runs it. Says whether it succeeded, and what it wrote.
async fn talk(program: &OsStr, server: &str) -> std::io::Result<(bool, Vec<u8>)> {
    let child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let mut group = Group(child);
    if let Some(mut input) = group.0.stdin.take() {
        // One that does not read has its reasons; its answer counts.
        let _ = input.write_all(server.as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(from) = group.0.stdout.take() {
        from.take(LIMIT + 1).read_to_end(&mut output).await?;
    }
    Ok((group.0.wait().await?.success(), output))
}

/// The first line of what a helper that failed has written, where that can be no answer with a secret.
fn complaint(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    let shown: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
    if shown.is_empty() || shown.contains(['{', '"']) { "it failed".to_owned() } else { shown }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of the tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    async fn ask(script: &str, time: Duration) -> Result<Option<Auth>, Error> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("docker-credential-x");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        loop {
            // Another test's fork may hold the file open for writing for a moment.
            match run(program.as_os_str(), "registry.example", time).await {
                Err(error) if error.kind() == Kind::Kernel(rustix::io::Errno::TXTBSY) => {}
                other => return other,
            }
        }
    }

    #[tokio::test]
    async fn answers() {
        let basic = |username: &str, password: &str| {
            Some(Auth::Basic { username: username.into(), password: password.into() })
        };
        for (script, expected) in [
            (
                r#"read s; echo "{\"ServerURL\":\"$s\",\"Username\":\"$1\",\"Secret\":\"$s\"}""#,
                basic("get", "registry.example"),
            ),
            (r#"echo '{"Username":"<token>","Secret":"t"}'"#, Some(Auth::IdentityToken("t".into()))),
            (r#"echo '{"Username":"","Secret":""}'"#, None),
            ("echo credentials not found in native keychain; exit 1", None),
        ] {
            assert_eq!(ask(script, TIME).await.unwrap(), expected, "{script}");
        }
    }

    #[tokio::test]
    async fn failures_are_told_without_secrets() {
        for (script, kind, why) in [
            ("echo no keychain here; exit 1", Kind::Invalid, "no keychain here"),
            (r#"echo '{"Secret":"hidden"}'; exit 1"#, Kind::Invalid, "it failed"),
            ("echo hidden", Kind::Invalid, "not JSON"),
            ("yes hidden", Kind::Invalid, "longer than"),
        ] {
            let error = ask(script, TIME).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(why) && !error.to_string().contains("hidden"), "{error}");
        }
        assert_eq!(get("../x", "a").await.unwrap_err().kind(), Kind::Invalid);
        let missing = get("vaquita-has-none", "a").await.unwrap_err();
        assert_eq!(missing.kind(), Kind::Kernel(rustix::io::Errno::NOENT));
        assert!(missing.to_string().contains("docker-credential-vaquita-has-none"), "{missing}");
    }

    /// One that hangs is ended with what it has started.
    #[tokio::test]
    async fn one_that_hangs_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        let error = ask(&script, Duration::from_secs(2)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Timeout);
        let pid: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        // Nobody in particular reaps it here: then it stays a zombie.
        let gone = || {
            rustix::process::test_kill_process(pid).is_err()
                || std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
                    .map_or(true, |stat| stat.contains(") Z"))
        };
        while !gone() {
            tokio::task::yield_now().await;
        }
    }
}
