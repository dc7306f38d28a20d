//! The first part of the single-file `cllm`: it unpacks what follows it, once, and runs that.
//!
//! The file is this program, a zstd frame, an index and a trailer (pack.py writes them). The frame holds the contents
//! of all files, one after another. The index has a line for each, "sha256 size path"; where a line has the hash of
//! the line before, the frame does not repeat the content, and the file becomes a link to the other one. The trailer
//! says how long frame and index are, and has the SHA-256 of both, which names the folder that they are unpacked into.
//!
//! That folder is in the user's cache, where nobody else can write: what lies in it will run. At each start the size
//! and owner of every file in it are looked at; whoever changes or removes one has it unpacked anew.

const std = @import("std");
const linux = std.os.linux;

const FOLDER = "binary"; // within the cache
const PROGRAM = "cllm"; // within the folder that is unpacked
const LIBRARIES = "_internal"; // likewise
const MANIFEST = ".manifest"; // the index, for `cllm doctor`
const HINT = "set CLLM_CACHE_DIR to a folder of your own that programs can run from, with 500 MB of room";

const OWN_FOLDER: linux.O = .{ .DIRECTORY = true, .CLOEXEC = true, .NOFOLLOW = true };
const NEW_FILE: linux.O = .{ .ACCMODE = .WRONLY, .CREAT = true, .EXCL = true, .CLOEXEC = true };
const LOCK_FILE: linux.O = .{ .ACCMODE = .RDWR, .CREAT = true, .CLOEXEC = true, .NOFOLLOW = true };

const Path = [:0]const u8;
const Environment = [:null]const ?[*:0]const u8;

var arena: std.heap.ArenaAllocator = .init(std.heap.page_allocator); // for paths and the environment, never freed

/// Why the last system call failed.
var reason: linux.E = .SUCCESS;

const Failure = error{ System, Damaged, Unsafe, OutOfMemory };

const Pack = struct { frame: []const u8, index: []const u8, digest: [32]u8, name: Path };

const Entry = struct { digest: []const u8, size: u64, path: Path };

pub fn main(process: std.process.Init.Minimal) u8 {
    const environment = process.environ.block.slice;
    const self = own_path(process.args.vector);
    const pack = open_pack(self) catch return tell(self, "this file was cut short or is damaged", "fetch it again");
    const mask = linux.syscall1(.umask, 0o077);
    var first: ?[]const u8 = null;
    var first_reason: linux.E = .SUCCESS;
    for (caches(environment)) |candidate| {
        const cache = candidate orelse continue;
        if (unpacked(cache, pack)) |folder| {
            _ = linux.syscall1(.umask, mask);
            const command: [*:null]const ?[*:0]const u8 = @ptrCast(process.args.vector.ptr);
            const program = print("{s}/" ++ PROGRAM, .{folder}) catch return tell(self, explained(.NOMEM), HINT);
            const variables = told(environment, self, folder) catch return tell(self, explained(.NOMEM), HINT);
            reason = linux.errno(linux.execve(program, command, variables));
            _ = linux.syscall1(.umask, 0o077);
            if (reason != .ACCES and reason != .PERM) return tell(program, explained(reason), HINT);
        } else |failure| switch (failure) {
            error.Damaged => return tell(self, "its content does not fit its hash: it is damaged", "fetch it again"),
            error.Unsafe => reason = .PERM,
            error.OutOfMemory => reason = .NOMEM,
            error.System => {},
        }
        if (first == null) {
            first = cache;
            first_reason = reason;
        }
    }
    return tell(first orelse "no cache folder", explained(first_reason), HINT);
}

fn tell(subject: []const u8, message: []const u8, hint: []const u8) u8 {
    const text = print("error: {s}: {s}\nhint: {s}\n", .{ subject, message, hint }) catch return 1;
    _ = linux.write(2, text.ptr, text.len);
    return 1;
}

fn explained(code: linux.E) []const u8 {
    return switch (code) {
        .PERM => "others can write there, or it belongs to another user",
        .ACCES => "cannot write there, or not run what is written",
        .NOSPC, .DQUOT => "no space left to unpack into",
        .ROFS => "is read-only",
        .NOMEM => "not enough memory",
        .NOENT => "is not there, or the C library (glibc) that it needs is not",
        .@"2BIG" => "the arguments and the environment are too large",
        else => @tagName(code),
    };
}

fn print(comptime format: []const u8, values: anytype) error{OutOfMemory}!Path {
    return std.fmt.allocPrintSentinel(arena.allocator(), format, values, 0);
}

/// What a system call returned, or the failure that it told of.
fn done(result: usize) error{System}!usize {
    reason = linux.errno(result);
    return if (reason == .SUCCESS) result else error.System;
}

fn handle(result: usize) error{System}!linux.fd_t {
    return @intCast(try done(result));
}

// ---- the file itself

fn own_path(arguments: []const [*:0]const u8) Path {
    var buffer: [linux.PATH_MAX]u8 = undefined;
    const length = done(linux.readlink("/proc/self/exe", &buffer, buffer.len)) catch
        return if (arguments.len > 0) std.mem.span(arguments[0]) else PROGRAM;
    return print("{s}", .{buffer[0..length]}) catch PROGRAM;
}

fn open_pack(self: Path) Failure!Pack {
    // The link leads to the file also where its path no longer does.
    const file = handle(linux.open("/proc/self/exe", .{ .CLOEXEC = true }, 0)) catch
        try handle(linux.open(self, .{ .CLOEXEC = true }, 0));
    const size = (try status(file, "", linux.AT.EMPTY_PATH)).size;
    const start = try done(linux.mmap(null, size, .{ .READ = true }, .{ .TYPE = .PRIVATE }, file, 0));
    const whole = @as([*]const u8, @ptrFromInt(start))[0..size];

    const magic = "cllmpack";
    const trailer_size = 8 + 8 + 32 + magic.len;
    if (size < trailer_size) return error.Damaged;
    const trailer = whole[size - trailer_size ..];
    if (!std.mem.endsWith(u8, trailer, magic)) return error.Damaged;
    const frame_size = std.mem.readInt(u64, trailer[0..8], .little);
    const index_size = std.mem.readInt(u64, trailer[8..16], .little);
    const body = whole[0 .. size - trailer_size];
    if (index_size > body.len or frame_size > body.len - index_size) return error.Damaged;
    const digest = trailer[16..48].*;
    return .{
        .frame = body[body.len - index_size - frame_size ..][0..frame_size],
        .index = body[body.len - index_size ..],
        .digest = digest,
        .name = try print("{s}", .{std.fmt.bytesToHex(digest[0..16].*, .lower)}),
    };
}

fn next_entry(lines: *std.mem.SplitIterator(u8, .scalar)) Failure!?Entry {
    const line = lines.next() orelse return null;
    if (line.len == 0) return null;
    var parts = std.mem.splitScalar(u8, line, ' ');
    const digest = parts.next() orelse return error.Damaged;
    const size = parts.next() orelse return error.Damaged;
    return .{
        .digest = digest,
        .size = std.fmt.parseInt(u64, size, 10) catch return error.Damaged,
        .path = try print("{s}", .{parts.rest()}),
    };
}

// ---- where it is unpacked

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

/// The path of the folder with everything in it, which this process and what it becomes hold a lock on.
fn unpacked(cache: Path, pack: Pack) Failure!Path {
    const asked = try print("{s}/" ++ FOLDER, .{cache});
    make_folders(asked);
    const root = try handle(linux.open(asked, .{ .DIRECTORY = true, .CLOEXEC = true }, 0));
    defer _ = linux.close(root);
    const path = try true_path(root, asked);
    try check_way(asked);
    try check_way(path);
    try make_private(root);

    const lock = try handle(linux.openat(root, "lock", LOCK_FILE, 0o600));
    defer _ = linux.close(lock);
    _ = linux.flock(lock, LOCK_EX);
    const tree = whole_tree(root, pack) catch made: {
        try unpack(root, pack);
        remove_others(root, pack);
        break :made try whole_tree(root, pack);
    };
    _ = linux.flock(tree, LOCK_SH); // stays open: nobody removes what is in use
    return print("{s}/{s}", .{ path, pack.name });
}

const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;

fn make_folders(path: Path) void {
    var end: usize = 1;
    while (std.mem.findScalarPos(u8, path, end, '/')) |slash| : (end = slash + 1) {
        const part = print("{s}", .{path[0..slash]}) catch return;
        _ = linux.mkdir(part, 0o700);
    }
    _ = linux.mkdir(path, 0o700);
}

/// The path of an open folder without links in it.
fn true_path(folder: linux.fd_t, asked: Path) Failure!Path {
    var buffer: [linux.PATH_MAX]u8 = undefined;
    const link = try print("/proc/self/fd/{d}", .{folder});
    const length = done(linux.readlink(link, &buffer, buffer.len)) catch return asked; // no /proc
    return print("{s}", .{buffer[0..length]});
}

/// Closes a folder to everybody else. Fails where others could have put something into it.
fn make_private(folder: linux.fd_t) Failure!void {
    const own = try status(folder, "", linux.AT.EMPTY_PATH);
    if (own.uid != linux.geteuid() or own.mode & 0o022 != 0) return error.Unsafe;
    if (own.mode & 0o077 != 0) _ = try done(linux.fchmod(folder, 0o700));
}

/// Fails where others could put another folder in the place of this one, or of one that it is in, or a link.
fn check_way(path: Path) Failure!void {
    const user = linux.geteuid();
    var end: usize = 1;
    while (end <= path.len) : (end += 1) {
        end = std.mem.findScalarPos(u8, path, end, '/') orelse path.len;
        const step = try status(linux.AT.FDCWD, try print("{s}", .{path[0..end]}), linux.AT.SYMLINK_NOFOLLOW);
        const shielded = step.mode & linux.S.ISVTX != 0 or step.mode & linux.S.IFMT == linux.S.IFLNK;
        if (step.uid != user and step.uid != 0) return error.Unsafe;
        if (step.mode & 0o022 != 0 and !shielded) return error.Unsafe;
    }
}

fn status(folder: linux.fd_t, path: Path, flags: u32) error{System}!linux.Statx {
    var found: linux.Statx = undefined;
    _ = try done(linux.statx(folder, path, flags, .BASIC_STATS, &found));
    return found;
}

/// The open folder of a pack, where every file of it is there, of its size, and the user's own.
fn whole_tree(root: linux.fd_t, pack: Pack) Failure!linux.fd_t {
    const tree = try handle(linux.openat(root, pack.name, .{ .DIRECTORY = true, .NOFOLLOW = true }, 0));
    errdefer _ = linux.close(tree);
    const user = linux.geteuid();
    const top = try status(tree, "", linux.AT.EMPTY_PATH);
    if (top.uid != user or top.mode & 0o022 != 0) return error.Unsafe;
    if ((try status(tree, MANIFEST, linux.AT.SYMLINK_NOFOLLOW)).size != pack.index.len) return error.Unsafe;
    var lines = std.mem.splitScalar(u8, pack.index, '\n');
    while (try next_entry(&lines)) |entry| {
        const file = try status(tree, entry.path, linux.AT.SYMLINK_NOFOLLOW);
        if (file.mode & linux.S.IFMT != linux.S.IFREG or file.size != entry.size) return error.Unsafe;
        if (file.uid != user or file.mode & 0o022 != 0) return error.Unsafe;
    }
    return tree;
}

// ---- unpacking

fn unpack(root: linux.fd_t, pack: Pack) Failure!void {
    const unfinished = ".cllm-unpacking";
    var digest: [32]u8 = undefined;
    var hash = std.crypto.hash.sha2.Sha256.init(.{});
    hash.update(pack.frame);
    hash.update(pack.index);
    hash.final(&digest);
    if (!std.mem.eql(u8, &digest, &pack.digest)) return error.Damaged;

    announce("unpacking cllm, once");
    defer announce("");
    remove(root, unfinished);
    remove(root, pack.name);
    _ = try done(linux.mkdirat(root, unfinished, 0o700));
    errdefer remove(root, unfinished);
    const folder = try handle(linux.openat(root, unfinished, OWN_FOLDER, 0));
    defer _ = linux.close(folder);
    try write_files(folder, pack);
    _ = try done(linux.renameat(root, unfinished, root, pack.name));
}

fn write_files(folder: linux.fd_t, pack: Pack) Failure!void {
    var contents = try Contents.init(pack.frame);
    var lines = std.mem.splitScalar(u8, pack.index, '\n');
    var before: ?Entry = null;
    while (try next_entry(&lines)) |entry| {
        make_parents(folder, entry.path);
        if (before != null and std.mem.eql(u8, before.?.digest, entry.digest)) {
            _ = try done(linux.linkat(folder, before.?.path, folder, entry.path, 0));
        } else {
            const file = try create(folder, entry.path);
            defer _ = linux.close(file);
            var left = entry.size;
            while (left > 0) {
                const part = try contents.next(left);
                try write_all(file, part);
                left -= part.len;
            }
        }
        before = entry;
    }
    const manifest = try create(folder, MANIFEST);
    defer _ = linux.close(manifest);
    try write_all(manifest, pack.index);
}

/// What a frame holds, by the zstd library.
const Contents = struct {
    stream: *anyopaque,
    input: Input,
    buffer: []u8,

    const Input = extern struct { bytes: [*]const u8, size: usize, position: usize = 0 };
    const Output = extern struct { bytes: [*]u8, size: usize, position: usize = 0 };
    extern fn ZSTD_createDStream() ?*anyopaque;
    extern fn ZSTD_decompressStream(stream: *anyopaque, output: *Output, input: *Input) usize;
    extern fn ZSTD_isError(code: usize) c_uint;

    fn init(frame: []const u8) Failure!Contents {
        return .{
            .stream = ZSTD_createDStream() orelse return error.OutOfMemory,
            .input = .{ .bytes = frame.ptr, .size = frame.len },
            .buffer = try std.heap.page_allocator.alloc(u8, 1 << 20),
        };
    }

    /// At least one byte and at most so many, until the next call.
    fn next(self: *Contents, most: u64) Failure![]const u8 {
        var output: Output = .{ .bytes = self.buffer.ptr, .size = @min(self.buffer.len, most) };
        while (output.position == 0) {
            const before = self.input.position;
            const code = ZSTD_decompressStream(self.stream, &output, &self.input);
            if (ZSTD_isError(code) != 0) return error.Damaged;
            if (output.position == 0 and self.input.position == before) return error.Damaged; // it ended
        }
        return self.buffer[0..output.position];
    }
};

fn make_parents(folder: linux.fd_t, path: Path) void {
    var end: usize = 0;
    while (std.mem.findScalarPos(u8, path, end, '/')) |slash| : (end = slash + 1) {
        const part = print("{s}", .{path[0..slash]}) catch return;
        _ = linux.mkdirat(folder, part, 0o700);
    }
}

fn create(folder: linux.fd_t, path: Path) Failure!linux.fd_t {
    return handle(linux.openat(folder, path, NEW_FILE, 0o500));
}

fn write_all(file: linux.fd_t, bytes: []const u8) Failure!void {
    var rest = bytes;
    while (rest.len > 0) rest = rest[try done(linux.write(file, rest.ptr, rest.len))..];
}

/// On a terminal, a line that the next one takes the place of.
fn announce(text: []const u8) void {
    var terminal: linux.termios = undefined;
    if (linux.errno(linux.tcgetattr(2, &terminal)) != .SUCCESS) return;
    const line = print("\r\x1b[K{s}", .{text}) catch return;
    _ = linux.write(2, line.ptr, line.len);
}

/// Removes what other versions have unpacked, unless a process runs from it.
fn remove_others(root: linux.fd_t, pack: Pack) void {
    var entries: Entries = .init(root);
    while (entries.next()) |entry| {
        if (!is_ours(entry.name) or std.mem.eql(u8, entry.name, pack.name)) continue;
        const folder = handle(linux.openat(root, entry.name, OWN_FOLDER, 0)) catch continue;
        defer _ = linux.close(folder);
        _ = status(folder, MANIFEST, linux.AT.SYMLINK_NOFOLLOW) catch continue;
        if (linux.errno(linux.flock(folder, LOCK_EX | LOCK_NB)) == .SUCCESS) remove(root, entry.name);
    }
}

/// Whether a name is one that a pack has: what else lies in the folder is somebody's.
fn is_ours(name: []const u8) bool {
    return name.len == 32 and std.mem.findNone(u8, name, "0123456789abcdef") == null;
}

/// Removes a folder and everything in it, as far as it can.
fn remove(parent: linux.fd_t, name: [*:0]const u8) void {
    const before = reason;
    defer reason = before;
    const folder = handle(linux.openat(parent, name, OWN_FOLDER, 0)) catch {
        _ = linux.unlinkat(parent, name, 0);
        return;
    };
    var entries: Entries = .init(folder);
    while (entries.next()) |entry| {
        if (entry.type == linux.DT.DIR) remove(folder, entry.name) else _ = linux.unlinkat(folder, entry.name, 0);
    }
    _ = linux.close(folder);
    _ = linux.unlinkat(parent, name, linux.AT.REMOVEDIR);
}

/// What is in an open folder.
const Entries = struct {
    folder: linux.fd_t,
    buffer: [8192]u8 align(8) = undefined,
    position: usize = 0,
    end: usize = 0,

    fn init(folder: linux.fd_t) Entries {
        _ = linux.lseek(folder, 0, linux.SEEK.SET);
        return .{ .folder = folder };
    }

    fn next(self: *Entries) ?struct { name: [:0]const u8, type: u8 } {
        while (true) {
            if (self.position == self.end) {
                self.end = done(linux.getdents64(self.folder, &self.buffer, self.buffer.len)) catch 0;
                self.position = 0;
                if (self.end == 0) return null;
            }
            const entry: *align(1) linux.dirent64 = @ptrCast(&self.buffer[self.position]);
            const start = self.position + @offsetOf(linux.dirent64, "name");
            self.position += entry.reclen;
            const name = std.mem.sliceTo(@as([*:0]const u8, @ptrCast(&self.buffer[start])), 0);
            if (std.mem.eql(u8, name, ".") or std.mem.eql(u8, name, "..")) continue;
            return .{ .name = name, .type = entry.type };
        }
    }
};
