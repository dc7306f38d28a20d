//! What follows the launcher in its file: a zstd frame, an index and a trailer (pack.py writes them).
//!
//! The frame holds the contents of all files, one after another. The index has a line for each, "sha256 size path";
//! where a line has the hash of the line before, the frame does not repeat the content. The trailer says how long frame
//! and index are, and has the SHA-256 of both, which names the folder that they are unpacked into.

const std = @import("std");
const linux = std.os.linux;
const system = @import("system.zig");

const Failure = system.Failure;
const Path = system.Path;
const MAGIC = "cllmpack";

pub const Pack = struct {
    frame: []const u8,
    index: []const u8,
    digest: [32]u8,
    name: Path,

    /// Of the running program: the link leads to its file also where its path no longer does.
    pub fn open() Failure!Pack {
        const file = try system.handle(linux.open("/proc/self/exe", .{ .CLOEXEC = true }, 0));
        defer system.close(file);
        const size = (try system.own_status(file)).size;
        const start = try system.done(linux.mmap(null, size, .{ .READ = true }, .{ .TYPE = .PRIVATE }, file, 0));
        const whole = @as([*]const u8, @ptrFromInt(start))[0..size];

        const trailer_size = 8 + 8 + 32 + MAGIC.len;
        if (size < trailer_size) return error.Damaged;
        const trailer = whole[size - trailer_size ..];
        if (!std.mem.endsWith(u8, trailer, MAGIC)) return error.Damaged;
        const frame_size = std.mem.readInt(u64, trailer[0..8], .little);
        const index_size = std.mem.readInt(u64, trailer[8..16], .little);
        const body = whole[0 .. size - trailer_size];
        if (index_size > body.len or frame_size > body.len - index_size) return error.Damaged;
        const digest = trailer[16..48].*;
        return .{
            .frame = body[body.len - index_size - frame_size ..][0..frame_size],
            .index = body[body.len - index_size ..],
            .digest = digest,
            .name = try system.print("{s}", .{std.fmt.bytesToHex(digest[0..16].*, .lower)}),
        };
    }

    pub fn is_intact(self: Pack) bool {
        var digest: [32]u8 = undefined;
        var hash = std.crypto.hash.sha2.Sha256.init(.{});
        hash.update(self.frame);
        hash.update(self.index);
        hash.final(&digest);
        return std.mem.eql(u8, &digest, &self.digest);
    }

    pub fn entries(self: Pack) Lines {
        return .{ .lines = std.mem.splitScalar(u8, self.index, '\n') };
    }
};

pub const Entry = struct { digest: []const u8, size: u64, path: Path };

/// Of an index.
pub const Lines = struct {
    lines: std.mem.SplitIterator(u8, .scalar),

    pub fn next(self: *Lines) Failure!?Entry {
        const line = self.lines.next() orelse return null;
        if (line.len == 0) return null;
        var parts = std.mem.splitScalar(u8, line, ' ');
        const digest = parts.next() orelse return error.Damaged;
        const size = parts.next() orelse return error.Damaged;
        return .{
            .digest = digest,
            .size = std.fmt.parseInt(u64, size, 10) catch return error.Damaged,
            .path = try system.print("{s}", .{parts.rest()}),
        };
    }
};

/// What a frame holds, by the zstd library.
pub const Contents = struct {
    stream: *anyopaque,
    input: Input,
    buffer: []u8,

    const Input = extern struct { bytes: [*]const u8, size: usize, position: usize = 0 };
    const Output = extern struct { bytes: [*]u8, size: usize, position: usize = 0 };
    extern fn ZSTD_createDStream() ?*anyopaque;
    extern fn ZSTD_freeDStream(stream: *anyopaque) usize;
    extern fn ZSTD_decompressStream(stream: *anyopaque, output: *Output, input: *Input) usize;
    extern fn ZSTD_getErrorCode(code: usize) c_int;
    const NO_ERROR = 0;
    const NO_MEMORY = 64;

    pub fn open(frame: []const u8) Failure!Contents {
        const buffer = try std.heap.page_allocator.alloc(u8, 1 << 20);
        errdefer std.heap.page_allocator.free(buffer);
        return .{
            .stream = ZSTD_createDStream() orelse return error.OutOfMemory,
            .input = .{ .bytes = frame.ptr, .size = frame.len },
            .buffer = buffer,
        };
    }

    pub fn close(self: *Contents) void {
        _ = ZSTD_freeDStream(self.stream);
        std.heap.page_allocator.free(self.buffer);
    }

    /// At least one byte and at most so many, until the next call.
    pub fn next(self: *Contents, most: u64) Failure![]const u8 {
        var output: Output = .{ .bytes = self.buffer.ptr, .size = @min(self.buffer.len, most) };
        while (output.position == 0) {
            const before = self.input.position;
            const code = ZSTD_decompressStream(self.stream, &output, &self.input);
            switch (ZSTD_getErrorCode(code)) {
                NO_ERROR => {},
                NO_MEMORY => return error.OutOfMemory,
                else => return error.Damaged,
            }
            if (output.position == 0 and self.input.position == before) return error.Damaged; // it ended
        }
        return self.buffer[0..output.position];
    }
};
