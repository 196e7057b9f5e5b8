//! `list` and `ps`.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::{Container, Error, Host, Kind, Status};

/// The states of all containers, by id. One that is being deleted meanwhile is passed over, and one that cannot be read is
/// told of.
///
/// # Errors
/// Those of reading the root directory.
pub fn list(host: &Host) -> Result<Vec<Value>, Error> {
    let mut states = Vec::new();
    for id in host.ids()? {
        let state = Container::open(host, &id).and_then(|container| Ok(container.state(container.status()?)));
        match state {
            Ok(state) => states.push(state),
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => (host.warn)(&error.while_doing(format_args!("container {id}"))),
        }
    }
    Ok(states)
}

/// The states as a table for people.
#[must_use]
pub fn table(states: &[Value]) -> String {
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned).to_vec();
    let text = |state: &Value, key: &str| match &state[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let row = |state: &Value| {
        ["id", "pid", "status", "bundle", "created", "owner"].map(|key| text(state, key)).to_vec()
    };
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(states.iter().map(row)).collect();
    let width = |column: usize| {
        let longest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        // As runc has it: at least 12 wide with 3 between.
        (longest + 3).max(12)
    };
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut table = String::new();
    for row in &rows {
        for (column, width) in row.iter().zip(&widths) {
            table.push_str(&format!("{column:<width$}"));
        }
        table.push_str(&row[5]);
        table.push('\n');
    }
    table
}

impl Container {
    /// The processes in its cgroup, by pid.
    ///
    /// # Errors
    /// Those of asking the kernel.
    pub fn processes(&self) -> Result<Vec<i32>, Error> {
        match self.cgroup()? {
            Some(cgroup) => Ok(cgroup.procs()?),
            None => Ok(match self.progress()? {
                Status::Stopped => Vec::new(),
                _ => self.record.init.map(|init| init.pid).into_iter().collect(),
            }),
        }
    }
}

/// What ps(1) says of these processes, called with `options` (`-ef` where there are none).
///
/// # Errors
/// When there is no ps or it fails, and when its table has no column `PID`.
pub fn ps(pids: &[i32], options: &[String]) -> Result<String, Error> {
    let mut command = Command::new("ps");
    if options.is_empty() {
        command.arg("-ef");
    } else {
        command.args(options);
    }
    let output = command.output().map_err(|error| Error::io("execve(\"ps\")", &error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::new(Kind::Other, format!("ps failed ({}): {}", output.status, said.trim())));
    }
    filter(&String::from_utf8_lossy(&output.stdout), pids)
}

fn filter(output: &str, pids: &[i32]) -> Result<String, Error> {
    let mut lines = output.lines();
    let title = lines.next().unwrap_or_default();
    let column = title.split_whitespace().position(|name| name == "PID");
    let column = column.ok_or_else(|| {
        Error::new(Kind::Invalid, "ps printed no column PID: choose options with which it does")
    })?;
    let pids: BTreeSet<String> = pids.iter().map(ToString::to_string).collect();
    let is_ours = |line: &&str| line.split_whitespace().nth(column).is_some_and(|pid| pids.contains(pid));
    Ok(std::iter::once(title).chain(lines.filter(is_ours)).map(|line| format!("{line}\n")).collect())
}

/// The name of a user in /etc/passwd, or `#` and the number.
#[expect(clippy::disallowed_methods, reason = "the host's own users")]
pub(crate) fn owner_name(uid: u32) -> String {
    if uid == 0 {
        return "root".to_owned();
    }
    let number = uid.to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{number}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_a_row_for_each() {
        let state = json!({"id": "c1", "pid": 12, "status": "running", "bundle": "/a/long/path", "created": "now", "owner": "root"});
        assert_eq!(
            table(&[state]),
            "ID          PID         STATUS      BUNDLE         CREATED     OWNER\n\
             c1          12          running     /a/long/path   now         root\n"
        );
    }

    #[test]
    fn ps_shows_ours_only() {
        let output = "UID  PID PPID CMD\nroot 1 0 init\nroot 12 1 a 13\nroot 13 12 b\n";
        assert_eq!(filter(output, &[12, 14]).unwrap(), "UID  PID PPID CMD\nroot 12 1 a 13\n");
        assert!(filter("CMD\nsh\n", &[1]).unwrap_err().to_string().contains("no column PID"));
    }
}
