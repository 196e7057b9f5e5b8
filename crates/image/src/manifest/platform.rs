//! Which manifest of an index is for this machine (pure).

use oci_spec::image::{Descriptor, Platform};

use crate::Error;

/// Chooses the manifest for the machine we run on.
///
/// # Errors
/// [`Kind::NotFound`] that lists the platforms that there are.
pub(crate) fn select<'a>(manifests: &'a [Descriptor], machine: &Machine) -> Result<&'a Descriptor, Error> {
    let rank =
        |descriptor: &&Descriptor| descriptor.platform().as_ref().and_then(|platform| machine.rank(platform));
    let best = manifests.iter().filter_map(|m| rank(&m).map(|rank| (rank, m))).min_by_key(|(rank, _)| *rank);
    if let Some((_, best)) = best {
        return Ok(best);
    }
    if let [only] = manifests
        && only.platform().is_none()
    {
        return Ok(only);
    }
    let mut there: Vec<String> =
        manifests.iter().filter_map(|m| m.platform().as_ref().map(name_of)).collect();
    there.sort();
    there.dedup();
    there.retain(|name| name != "unknown/unknown");
    there.truncate(20);
    Err(Error::not_found(format!(
        "the image has no variant for linux/{}; it has: {}",
        machine.arch,
        there.join(", ")
    )))
}

fn name_of(platform: &Platform) -> String {
    let base = format!("{}/{}", platform.os(), platform.architecture());
    let name = match platform.variant() {
        Some(variant) => format!("{base}/{variant}"),
        None => base,
    };
    name.chars().filter(|c| !c.is_control()).take(60).collect()
}

/// The machine that images are chosen for.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// As images call it: `amd64`, `arm64`.
    pub(crate) arch: &'static str,
    /// Architectures and variants that run here, best first, in the form of [`normal`].
    runs: &'static [(&'static str, &'static str)],
}

impl Machine {
    /// This machine.
    pub(crate) fn host() -> Self {
        match std::env::consts::ARCH {
            "x86_64" => Self::amd64(x86_level()),
            "aarch64" => Self {
                arch: "arm64",
                runs: &[("arm64", ""), ("arm", "v8"), ("arm", "v7"), ("arm", "v6"), ("arm", "v5")],
            },
            "arm" => Self { arch: "arm", runs: &[("arm", "v7"), ("arm", "v6"), ("arm", "v5")] },
            "riscv64" => Self { arch: "riscv64", runs: &[("riscv64", "")] },
            other => Self { arch: other, runs: &[] },
        }
    }

    /// A machine of this level of the psABI. The plain form comes first: it is the default of an index that also has levels, and
    /// runs everywhere.
    pub(super) fn amd64(level: usize) -> Self {
        let runs: &[(&str, &str)] = match level {
            3 => &[("amd64", ""), ("amd64", "v3"), ("amd64", "v2"), ("386", "")],
            2 => &[("amd64", ""), ("amd64", "v2"), ("386", "")],
            _ => &[("amd64", ""), ("386", "")],
        };
        Self { arch: "amd64", runs }
    }

    /// How well a platform fits: 0 best, `None` not at all. The order is containerd's (`platformVector`), but for the levels of
    /// amd64, of which containerd takes none unless told to.
    fn rank(&self, platform: &Platform) -> Option<usize> {
        if platform.os().to_string() != "linux" {
            return None;
        }
        let (arch, variant) = (platform.architecture().to_string(), platform.variant().as_deref());
        let wanted = normal(&arch, variant.unwrap_or_default());
        let found = self.runs.iter().position(|known| *known == wanted);
        found.or_else(|| (self.runs.is_empty() && wanted.0 == self.arch).then_some(0))
    }

    /// Whether programs for this architecture run here.
    pub(super) fn runs(&self, arch: &str) -> bool {
        arch == self.arch || self.runs.iter().any(|(known, _)| *known == normal(arch, "").0)
    }
}

/// An architecture and its variant, by one name where it has several (containerd, `normalizeArch`).
fn normal<'a>(arch: &'a str, variant: &'a str) -> (&'a str, &'a str) {
    match (arch, variant) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    }
}

/// The level of this processor, 1 to 3.
fn x86_level() -> usize {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("bmi2") {
        return 3;
    } else if std::arch::is_x86_feature_detected!("sse4.2") {
        return 2;
    }
    1
}

#[cfg(test)]
mod tests {
    use crate::Kind;
    use crate::manifest::{Document, OCI_MANIFEST, parse};

    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn index(platforms: &[(&str, &str, Option<&str>)]) -> Vec<Descriptor> {
        let entry = |(os, arch, variant): &(&str, &str, Option<&str>)| {
            let variant = variant.map(|v| format!(r#","variant":"{v}""#)).unwrap_or_default();
            format!(
                r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{D}","size":1,"platform":{{"os":"{os}","architecture":"{arch}"{variant}}}}}"#
            )
        };
        let entries: Vec<String> = platforms.iter().map(entry).collect();
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        match parse(text.as_bytes(), None).unwrap() {
            Document::Index(manifests) => manifests,
            Document::Manifest(_) => panic!("not an index"),
        }
    }

    fn chosen(there: &[(&str, &str, Option<&str>)], machine: &Machine) -> Option<usize> {
        let manifests = index(there);
        let best = select(&manifests, machine).ok()?;
        manifests.iter().position(|manifest| std::ptr::eq(manifest, best))
    }

    const ARM: Machine = Machine { arch: "arm", runs: &[("arm", "v7"), ("arm", "v6"), ("arm", "v5")] };
    const ARM64: Machine = Machine {
        arch: "arm64",
        runs: &[("arm64", ""), ("arm", "v8"), ("arm", "v7"), ("arm", "v6"), ("arm", "v5")],
    };

    /// What is taken first, then what is taken when that is not there, and so on: containerd's `platformVector` for the same machine.
    #[test]
    fn the_platform_is_chosen_in_the_order_of_containerd() {
        #[expect(clippy::type_complexity, reason = "a table that is read here")]
        let order: [(&str, Machine, &[(&str, Option<&str>)]); 3] = [
            ("arm", ARM, &[("arm", Some("v7")), ("arm", Some("v6")), ("arm", Some("v5"))]),
            (
                "arm64",
                ARM64,
                &[
                    ("arm64", Some("v8")),
                    ("arm", Some("v8")),
                    ("arm", Some("v7")),
                    ("arm", Some("v6")),
                    ("arm", Some("v5")),
                ],
            ),
            (
                "amd64",
                Machine::amd64(3),
                &[("amd64", None), ("amd64", Some("v3")), ("amd64", Some("v2")), ("386", None)],
            ),
        ];
        for (name, machine, order) in order {
            for first in 0..order.len() {
                // Last ones first, and what does not run here in between.
                let mut there: Vec<(&str, &str, Option<&str>)> =
                    order[first..].iter().rev().map(|(arch, variant)| ("linux", *arch, *variant)).collect();
                let last = there.len() - 1;
                there.extend([
                    ("windows", order[first].0, order[first].1),
                    ("linux", "s390x", None),
                    ("linux", "arm", Some("v9")),
                    ("linux", "amd64", Some("v4")),
                    ("unknown", "unknown", None),
                ]);
                assert_eq!(chosen(&there, &machine), Some(last), "{name}: {:?}", order[first]);
            }
        }
    }

    #[test]
    fn one_platform_has_several_names() {
        for (arch, variant, machine) in [
            ("arm", None, ARM),
            ("arm", Some("7"), ARM),
            ("armhf", None, ARM),
            ("armel", None, ARM),
            ("aarch64", None, ARM64),
            ("arm64", Some("8"), ARM64),
            ("x86_64", None, Machine::amd64(1)),
            ("amd64", Some("v1"), Machine::amd64(1)),
            ("i386", None, Machine::amd64(1)),
        ] {
            assert_eq!(chosen(&[("linux", arch, variant)], &machine), Some(0), "{arch} {variant:?}");
        }
        for (arch, variant, machine) in [
            ("arm", Some("v8"), ARM),
            ("amd64", Some("v2"), Machine::amd64(1)),
            ("amd64", Some("v3"), Machine::amd64(2)),
            ("arm64", None, Machine::amd64(3)),
        ] {
            assert_eq!(chosen(&[("linux", arch, variant)], &machine), None, "{arch} {variant:?}");
        }
        let there =
            index(&[("linux", "amd64", None), ("linux", "arm", Some("v6")), ("unknown", "unknown", None)]);
        let error = select(&there, &Machine { arch: "s390x", runs: &[] }).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.to_string().ends_with("it has: linux/amd64, linux/arm/v6"), "{error}");
        let other = Machine { arch: "s390x", runs: &[] };
        assert_eq!(chosen(&[("linux", "s390x", None)], &other), Some(0));
    }
}
