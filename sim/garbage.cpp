// Feeds the frame decoder with garbage, as fast as the machine allows.
//
// Arguments: number of rounds, bytes of garbage per round, seed, a whole frame and the packet in it,
// both as hexadecimal digits. Each round has garbage of one kind, then an end and the frame. The
// decoder must pass on the frame's packet, and nothing else. Prints the outcome as JSON.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <string>
#include <vector>

#include "Vtop.h"
#include "verilated.h"

namespace {

constexpr unsigned kEnd = 0x7e, kEscape = 0x7d;
constexpr int kMaxWaitCycles = 100000;  // for the decoder to take a byte

using Bytes = std::vector<uint8_t>;

Bytes from_hex(const char* digits) {
    Bytes bytes;
    for (const std::string text = digits; bytes.size() < text.size() / 2;)
        bytes.push_back(std::stoul(text.substr(2 * bytes.size(), 2), nullptr, 16));
    return bytes;
}

// xorshift64*
struct Random {
    uint64_t state;

    uint32_t next() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return state * 0x2545f4914f6cdd1dull >> 32;
    }
};

// The kinds of garbage take turns.
struct Garbage {
    Random random;
    const Bytes& frame;
    unsigned kind = 0;
    size_t at = 0;  // byte of a damaged frame
    size_t damaged = 0;  // its bit that is flipped

    uint8_t next() {
        const uint32_t r = random.next();
        switch (kind) {
            case 0:  // bytes of equal probability
                return r;
            case 1:  // many short frames, many escapes
                return r % 16 < 3 ? kEnd : r % 16 < 6 ? kEscape : r >> 8;
            case 2:  // a line that is stuck most of the time
                return r % 4096 == 0 ? kEnd : r % 64 == 0 ? r >> 8 : 0;
            default:  // whole frames, each with a bit flipped
                if (at == 0) damaged = r % (8 * frame.size());
                const uint8_t flip = damaged / 8 == at ? 1 << damaged % 8 : 0;
                const uint8_t byte = frame[at] ^ flip;
                at = (at + 1) % frame.size();
                return byte;
        }
    }
};

}  // namespace

int main(int argc, char** argv) {
    if (argc != 6) return 2;
    const unsigned long n_rounds = atol(argv[1]), n_round_bytes = atol(argv[2]);
    const Bytes frame = from_hex(argv[4]), packet = from_hex(argv[5]);
    Garbage garbage{{static_cast<uint64_t>(atol(argv[3])) * 2 + 1}, frame};

    VerilatedContext context;
    Vtop device{&context};
    unsigned long n_cycles = 0, n_bytes = 0, n_dropped = 0, n_passed = 0, n_wrong = 0;
    Bytes received;
    device.clk = 0;
    device.o___05Fready = 1;
    const auto tick = [&] {
        device.clk = 0;
        device.eval();
        if (device.o___05Fvalid) received.push_back(device.o___05Fpayload);
        n_dropped += device.dropped;
        n_passed += device.passed;
        device.clk = 1;
        device.eval();
        n_cycles++;
    };
    device.rst = 1;
    device.i___05Fvalid = 0;
    tick();
    device.rst = 0;
    received.clear();
    n_dropped = n_passed = 0;

    bool hangs = false;
    const auto send = [&](uint8_t byte) {
        device.i___05Fvalid = 1;
        device.i___05Fpayload = byte;
        device.clk = 0;
        device.eval();
        int n_waited = 0;
        for (; !device.i___05Fready && n_waited < kMaxWaitCycles; n_waited++) tick();
        hangs |= n_waited == kMaxWaitCycles;
        tick();
        device.i___05Fvalid = 0;
        n_bytes++;
    };
    unsigned long n_answered = 0;
    for (unsigned long round = 0; round < n_rounds && !hangs; round++) {
        garbage.kind = round % 4;
        for (unsigned long n = 0; n < n_round_bytes && !hangs; n++) send(garbage.next());
        send(kEnd);
        for (int n = 0; n < 2000; n++) tick();
        n_wrong += !received.empty();  // a frame that its CRC lets pass
        received.clear();
        for (const uint8_t byte : frame) send(byte);
        for (int n = 0; n < 2000; n++) tick();
        n_answered += received == packet;
        received.clear();
    }
    printf("{\"n_bytes\": %lu, \"n_dropped\": %lu, \"n_passed\": %lu, \"n_rounds\": %lu, "
           "\"n_answered\": %lu, \"n_wrong\": %lu, \"n_cycles\": %lu}\n",
           n_bytes, n_dropped, n_passed, n_rounds, n_answered, n_wrong, n_cycles);
    device.final();
    return 0;
}
