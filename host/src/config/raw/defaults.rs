//! Defaults of fields, for `serde`.

pub(super) const fn half() -> u32 {
    50
}

pub(super) const fn sixteen() -> usize {
    16
}

pub(super) const fn one() -> u32 {
    1
}

pub(super) const fn three() -> u32 {
    3
}

pub(super) const fn twenty() -> u32 {
    20
}

pub(super) const fn thousand() -> usize {
    1_000
}

pub(super) fn nothing() -> String {
    "0%".into()
}

pub(super) fn any() -> String {
    "*".into()
}

pub(super) fn two_seconds() -> String {
    "2s".into()
}

pub(super) fn five_seconds() -> String {
    "5s".into()
}

pub(super) fn ten_seconds() -> String {
    "10s".into()
}

pub(super) fn thirty_seconds() -> String {
    "30s".into()
}

pub(super) fn one_minute() -> String {
    "1m".into()
}

pub(super) fn override_header() -> String {
    "x-cutover-pool".into()
}

pub(super) fn request_buffer() -> usize {
    16 << 10
}

pub(super) fn eighty() -> u32 {
    80
}

pub(super) fn session_cookie() -> String {
    "cutover-session".into()
}

pub(super) fn root() -> String {
    "/".into()
}

pub(super) fn lax() -> String {
    "lax".into()
}

pub(super) fn share() -> String {
    "share".into()
}

pub(super) fn address() -> String {
    "address".into()
}
