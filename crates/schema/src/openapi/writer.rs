//! Writes JSON without building it first.

/// JSON as it grows.
#[derive(Debug)]
pub(super) struct Writer {
    out: Vec<u8>,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { out: Vec::with_capacity(64 * 1024) }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.out
    }

    /// The key of the next value in an object.
    pub(super) fn field(&mut self, key: &str) -> &mut Self {
        self.separate();
        self.string(key);
        self.out.push(b':');
        self
    }

    pub(super) fn object(&mut self, members: impl FnOnce(&mut Self)) {
        self.separate();
        self.out.push(b'{');
        members(self);
        self.out.push(b'}');
    }

    pub(super) fn list(&mut self, items: impl FnOnce(&mut Self)) {
        self.separate();
        self.out.push(b'[');
        items(self);
        self.out.push(b']');
    }

    /// A member that is a string.
    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.field(key).value(value);
    }

    /// A string as the next value.
    pub(super) fn value(&mut self, value: &str) {
        self.separate();
        self.string(value);
    }

    /// JSON that is written already, as a member.
    pub(super) fn raw(&mut self, key: &str, json: &str) {
        self.field(key).out.extend_from_slice(json.as_bytes());
    }

    /// A list of strings, as a member.
    pub(super) fn texts<'a>(&mut self, key: &str, values: impl IntoIterator<Item = &'a str>) {
        self.field(key).list(|out| values.into_iter().for_each(|value| out.value(value)));
    }

    /// A comma where one is due.
    fn separate(&mut self) {
        if !matches!(self.out.last(), None | Some(b'{' | b'[' | b':' | b',')) {
            self.out.push(b',');
        }
    }

    fn string(&mut self, text: &str) {
        // Writing a string to memory cannot fail.
        let _ = serde_json::to_writer(&mut self.out, text);
    }
}
