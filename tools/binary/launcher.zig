//! The first part of the single-file `cllm`: it unpacks what follows it (pack.zig), once, and runs that.
//!
//! It is unpacked into the user's cache (tree.zig), where nobody else can write (folders.zig): what lies in it will run.
//! At each start the size and owner of every file in it are looked at; whoever changes or removes one has it unpacked
//! anew.

const std = @import("std");
const linux = std.os.linux;
const system = @import("system.zig");
const Pack = @import("pack.zig").Pack;
const Tree = @import("tree.zig").Tree;
const let_go = @import("tree.zig").let_go;
const unpacked = @import("tree.zig").unpacked;

const Path = system.Path;
const print = system.print;
const Environment = [:null]const ?[*:0]const u8;

const PROGRAM = "cllm"; // within the folder that is unpacked
const LIBRARIES = "_internal"; // likewise

/// Why something failed, and what to do.
const Cause = struct {
    text: []const u8,
    hint: []const u8 = "set CLLM_CACHE_DIR to a folder of your own that programs can run from, with 700 MB of room",
};

pub fn main(process: std.process.Init.Minimal) u8 {
    const environment = process.environ.block.slice;
    const self = system.link_target("/proc/self/exe") catch
        return tell("/proc/self/exe", .{ .text = system.words(system.reason), .hint = "it needs /proc to be mounted" });
    const pack = Pack.open() catch |failure| return tell(self, switch (failure) {
        error.Damaged => .{ .text = "this file was cut short or is damaged", .hint = "fetch it again" },
        error.OutOfMemory => explained(.NOMEM),
        else => switch (system.reason) {
            .ACCES, .PERM => .{ .text = system.words(system.reason), .hint = "it has to be a file that you may read" },
            .IO => .{ .text = system.words(system.reason), .hint = "fetch it again, onto another disk" },
            else => explained(system.reason),
        },
    });
    const mask = linux.syscall1(.umask, 0o077);
    var first: ?Path = null;
    var first_cause: Cause = .{ .text = "there is none" };
    for (caches(environment)) |candidate| {
        const cache = candidate orelse continue;
        const cause = if (unpacked(cache, pack)) |tree| refused: {
            defer let_go(tree.locks);
            _ = linux.syscall1(.umask, mask);
            const code = run(tree, process.args.vector, environment, self);
            _ = linux.syscall1(.umask, 0o077);
            if (code != .ACCES and code != .PERM) return tell(tree.path, unstarted(code));
            break :refused explained(code);
        } else |failure| switch (failure) {
            error.Damaged => return tell(self, .{
                .text = "its content does not fit its hash: it is damaged",
                .hint = "fetch it again",
            }),
            error.Unsafe => Cause{ .text = "others can write there, or it belongs to another user" },
            error.Unmapped => Cause{
                .text = "the root folder is neither root's nor yours, as in a user namespace",
                .hint = "run it outside of that, or where the root folder is your own (a container)",
            },
            error.Unloadable => Cause{
                .text = "its path has a ':', ';' or '$' in it, where the system's loader would not find libraries",
            },
            error.OutOfMemory => explained(.NOMEM),
            error.System => explained(system.reason),
        };
        if (first == null) {
            first = cache;
            first_cause = cause;
        }
    }
    return tell(first orelse "a cache folder", first_cause);
}

/// Becomes the program, which goes on holding the locks of its folder. Returns only where that fails.
fn run(tree: Tree, arguments: []const [*:0]const u8, environment: Environment, self: Path) linux.E {
    const command: [*:null]const ?[*:0]const u8 = @ptrCast(arguments.ptr);
    const program = print("{s}/" ++ PROGRAM, .{tree.path}) catch return .NOMEM;
    const variables = told(environment, self, tree.path) catch return .NOMEM;
    for (tree.locks) |lock| _ = linux.fcntl(lock, linux.F.SETFD, 0);
    return linux.errno(linux.execve(program, command, variables));
}

fn tell(subject: []const u8, cause: Cause) u8 {
    const text = print("error: {s}: {s}\nhint: {s}\n", .{ subject, cause.text, cause.hint }) catch return 1;
    _ = linux.write(2, text.ptr, text.len);
    return 1;
}

/// Of a program that is there and may be run.
fn unstarted(code: linux.E) Cause {
    return switch (code) {
        .NOENT => .{
            .text = "the C library (glibc) that it needs is not there",
            .hint = "it runs on systems with glibc; on others, such as Alpine, install cllm by pip",
        },
        .@"2BIG" => .{
            .text = "the arguments and the environment are too large",
            .hint = "give it fewer of them, or raise the limit (ulimit -s)",
        },
        .AGAIN => .{ .text = "too many processes", .hint = "end some, or raise the limit (ulimit -u)" },
        else => explained(code),
    };
}

fn explained(code: linux.E) Cause {
    return switch (code) {
        .ACCES, .PERM => .{ .text = "cannot write there, or not run what is written" },
        .NOSPC, .DQUOT => .{ .text = "no space left to unpack into" },
        .ROFS => .{ .text = "is read-only" },
        .NOLCK, .OPNOTSUPP => .{ .text = "files cannot be locked there" },
        .NOMEM => .{ .text = "not enough memory", .hint = "free some, or raise the limit (ulimit -v, control group)" },
        .NOSYS => .{ .text = "the system is too old", .hint = "it needs Linux 4.11 or later" },
        .MFILE, .NFILE => .{ .text = system.words(code), .hint = "raise the limit (ulimit -n)" },
        else => .{ .text = system.words(code) },
    };
}

/// The folders that come into question, the best first.
fn caches(environment: Environment) [6]?Path {
    const user = linux.geteuid();
    return .{
        joined(variable(environment, "CLLM_CACHE_DIR"), ""),
        joined(variable(environment, "XDG_CACHE_HOME"), "/cllm"),
        joined(variable(environment, "HOME"), "/.cache/cllm"),
        joined(variable(environment, "TMPDIR"), print("/cllm-{d}", .{user}) catch ""),
        print("/var/tmp/cllm-{d}", .{user}) catch null,
        print("/tmp/cllm-{d}", .{user}) catch null,
    };
}

fn joined(folder: ?[]const u8, rest: []const u8) ?Path {
    const text = folder orelse return null;
    if (text.len == 0 or text.len > linux.PATH_MAX / 2) return null;
    return print("{s}{s}", .{ text, rest }) catch null;
}

fn variable(environment: Environment, name: []const u8) ?[]const u8 {
    for (environment) |entry| {
        const text = std.mem.span(entry orelse break);
        if (text.len > name.len and text[name.len] == '=' and std.mem.startsWith(u8, text, name))
            return text[name.len + 1 ..];
    }
    return null;
}

/// The environment with CLLM_BINARY, which says what was started, and the libraries that came along before any others.
///
/// What PyInstaller starts with sets LD_LIBRARY_PATH itself, but needs one of them (zlib) to start.
fn told(environment: Environment, self: Path, folder: Path) error{OutOfMemory}![*:null]const ?[*:0]const u8 {
    const name = "CLLM_BINARY=";
    const places = "LD_LIBRARY_PATH=";
    var entries = try std.heap.page_allocator.allocSentinel(?[*:0]const u8, environment.len + 2, null);
    var count: usize = 0;
    for (environment) |entry| {
        const text = std.mem.span(entry.?);
        if (std.mem.startsWith(u8, text, name) or std.mem.startsWith(u8, text, places)) continue;
        entries[count] = entry;
        count += 1;
    }
    const before = variable(environment, "LD_LIBRARY_PATH") orelse "";
    const between = if (before.len > 0) ":" else "";
    entries[count] = (try print(name ++ "{s}", .{self})).ptr;
    entries[count + 1] = (try print(places ++ "{s}/" ++ LIBRARIES ++ "{s}{s}", .{ folder, between, before })).ptr;
    entries[count + 2] = null;
    return entries.ptr;
}
