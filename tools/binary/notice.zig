//! What the user is told while there is nothing but to wait.

const std = @import("std");
const linux = std.os.linux;
const system = @import("system.zig");

/// On a terminal, where the line goes away with `done`, unless it is one that cannot do that.
pub fn working(text: []const u8) void {
    if (is_terminal()) show(text);
}

/// Also in a log.
pub fn waiting(text: []const u8) void {
    show(text);
}

pub fn done() void {
    if (is_terminal() and can_erase()) write("\r\x1b[K");
}

fn show(text: []const u8) void {
    write(text);
    if (!is_terminal() or !can_erase()) write("\n");
}

fn write(text: []const u8) void {
    _ = linux.write(2, text.ptr, text.len);
}

fn is_terminal() bool {
    var terminal: linux.termios = undefined;
    return system.is_done(linux.tcgetattr(2, &terminal));
}

fn can_erase() bool {
    const kind = std.mem.span(std.c.getenv("TERM") orelse return false);
    return kind.len > 0 and !std.mem.eql(u8, kind, "dumb");
}
