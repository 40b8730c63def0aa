// A USB host at the pins D+ and D- of a full-speed device, bit by bit: the model of a PC's controller
// and of the driver for CDC-ACM. It knows nothing of the device but the levels of its pins.
//
// Time advances in cycles of 60 MHz, five of them per bit. Packets have a CRC and are repeated as USB
// 2.0 (chapter 8) asks for; the host can damage or lose packets of both directions at random, and
// counts what a device must never do. A trace of the pins can be written as a VCD file.
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <deque>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace usb {

using Bytes = std::vector<uint8_t>;

// Levels of the pins: bit 1 is D+, bit 0 is D-.
enum Line { kSe0 = 0, kK = 1, kJ = 2, kReleased = -1 };

enum Pid : uint8_t {
    kOut = 0x1, kIn = 0x9, kSof = 0x5, kSetup = 0xD,
    kData0 = 0x3, kData1 = 0xB, kAck = 0x2, kNak = 0xA, kStall = 0xE,
};

// What the device drives.
struct Outputs {
    bool oe;
    int line;
    bool pullup;
};

enum class Result { kAck, kNak, kStall, kError };

constexpr int kCyclesPerBit = 5;
constexpr int kFrameCycles = 60000;        // 1 ms
// An answer begins at least 2 bits after the end of the packet before it. A host waits for it for 16
// to 18 bits (7.1.19.1).
constexpr int kMinAnswerBits = 2;
constexpr int kMaxAnswerBits = 16;
constexpr int kTimeoutBits = 18;
constexpr int kMaxPacketBytes = 64;
constexpr int kMaxErrors = 8;              // repetitions of a damaged transaction
constexpr int kMaxTransactionCycles = (3 + 1 + 1) * 60 * 5 + (kMaxPacketBytes * 8 * 7 / 6 + 60) * 5;

inline uint8_t crc5(uint16_t value) {  // of 11 bits
    uint8_t crc = 0x1F;
    for (int i = 0; i < 11; i++) {
        const bool feedback = (crc & 1) ^ (value >> i & 1);
        crc = crc >> 1 ^ (feedback ? 0x14 : 0);
    }
    return crc ^ 0x1F;
}

inline uint16_t crc16(const uint8_t* bytes, size_t n) {
    uint16_t crc = 0xFFFF;
    for (size_t i = 0; i < n; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xA001 : 0);
    }
    return ~crc;
}

struct Counters {
    unsigned long n_packets = 0, n_naks = 0, n_stalls = 0, n_repeated = 0, n_damaged = 0;
    unsigned long n_out_bytes = 0, n_in_bytes = 0, n_resets = 0, n_empty = 0;
    // What must stay at 0: both sides drive; damaged packets from the device; answers too early or
    // too late; packets with a data toggle or an ID that cannot be.
    unsigned long n_contentions = 0, n_bad_packets = 0, n_bad_times = 0, n_bad_answers = 0;
    double max_answer_bits = 0, min_answer_bits = 1e9;

    unsigned long n_violations() const {
        return n_contentions + n_bad_packets + n_bad_times + n_bad_answers;
    }
};

class Host {
   public:
    // `cycle` sets the levels that the device sees, lets one cycle of 60 MHz pass, and returns what
    // the device drives then.
    explicit Host(std::function<Outputs(int line)> cycle) : cycle_(std::move(cycle)) {}

    ~Host() {
        if (vcd_) fclose(vcd_);
    }

    Counters counters;
    unsigned long now = 0;    // cycles of 60 MHz
    double error_rate = 0;    // share of packets, of both directions, that are damaged or lost
    double clock_ratio = 1;   // of the host's clock to the device's
    bool plugged = true;
    std::minstd_rand random{1};

    bool trace(const char* path) {
        vcd_ = fopen(path, "w");
        if (vcd_) {
            fprintf(vcd_,
                    "$timescale 1 ps $end\n$scope module usb $end\n$var wire 1 p dp $end\n"
                    "$var wire 1 m dm $end\n$upscope $end\n$enddefinitions $end\n");
        }
        return vcd_ != nullptr;
    }

    // ---- the line ------------------------------------------------------------------------------

    int step(int driven) {
        int line = outputs_.pullup ? kJ : kSe0;
        if (!plugged) driven = kReleased;
        if (outputs_.oe) {
            line = outputs_.line;
            counters.n_contentions += driven != kReleased;
        } else if (driven != kReleased) {
            line = driven;
        }
        const int seen = plugged ? line : kSe0;
        if (vcd_ && seen != traced_) {
            fprintf(vcd_, "#%llu\n%dp\n%dm\n", now * 50000ull / 3, seen >> 1, seen & 1);
            traced_ = seen;
        }
        outputs_ = cycle_(line);
        now++;
        return seen;
    }

    void wait(unsigned long n_cycles) {
        for (unsigned long i = 0; i < n_cycles; i++) step(kReleased);
    }

    bool attached() const { return plugged && outputs_.pullup; }

    // A bus reset, after which the device has no address.
    void reset_bus() {
        counters.n_resets++;
        for (int i = 0; i < 60 * 60; i++) step(kSe0);  // 60 us; real hosts take 10 ms
        wait(60 * 10);
        address = 0;
        toggle_in_ = toggle_out_ = 0;
    }

    // ---- packets -------------------------------------------------------------------------------

    // Sends a packet, unless it is lost.
    void send(const Bytes& packet) {
        counters.n_packets++;
        std::vector<bool> bits(7, false);
        bits.push_back(true);
        int n_ones = 1;
        for (const uint8_t byte : packet) {
            for (int i = 0; i < 8; i++) {
                const bool bit = byte >> i & 1;
                bits.push_back(bit);
                n_ones = bit ? n_ones + 1 : 0;
                if (n_ones == 6) {
                    bits.push_back(false);
                    n_ones = 0;
                }
            }
        }
        if (fails()) {
            counters.n_damaged++;
            if (random() % 4 == 0) {  // lost
                wait(bits.size() * kCyclesPerBit);
                return;
            }
            const size_t at = 8 + random() % (bits.size() - 8);
            bits[at] = !bits[at];
        }
        double debt = 0;
        const auto put = [&](int line) {
            debt += kCyclesPerBit / clock_ratio;
            for (; debt >= 0.5; debt--) step(line);
        };
        int line = kJ;
        for (const bool bit : bits) {
            if (!bit) line ^= kJ ^ kK;
            put(line);
        }
        put(kSe0);
        put(kSe0);
        put(kJ);
    }

    void send_token(Pid pid, int to_address, int endpoint) {
        const uint16_t fields = to_address | endpoint << 7;
        send_token(pid, fields);
    }

    void send_token(Pid pid, uint16_t fields) {
        const uint16_t word = fields | crc5(fields) << 11;
        send({id(pid), uint8_t(word), uint8_t(word >> 8)});
        if (pid != kIn) wait(2 * kCyclesPerBit);
    }

    void send_data(Pid pid, const Bytes& data) {
        Bytes packet = {id(pid)};
        packet.insert(packet.end(), data.begin(), data.end());
        const uint16_t crc = crc16(data.data(), data.size());
        packet.push_back(crc);
        packet.push_back(crc >> 8);
        send(packet);
    }

    // The answer of the device: a packet without its SYNC; none if it does not come in time or is
    // damaged.
    std::optional<Bytes> receive() {
        int waited = 0;
        while (step(kReleased) != kK) {
            if (++waited > kTimeoutBits * kCyclesPerBit) return std::nullopt;
        }
        // The last bit of the packet before is J, which ends the host's packet.
        const double bits = double(waited) / kCyclesPerBit + 1;
        counters.max_answer_bits = std::max(counters.max_answer_bits, bits);
        counters.min_answer_bits = std::min(counters.min_answer_bits, bits);
        counters.n_bad_times += bits < kMinAnswerBits || bits > kMaxAnswerBits;
        Bytes packet;
        int last = kJ, line = kK, phase = 1, n_ones = 0, n_bits = -1;  // -1: in the SYNC
        uint8_t shift = 0;
        bool good = true;
        int n_zeros = 0;
        while (true) {
            if (phase == kCyclesPerBit / 2) {
                if (line == kSe0) break;
                const bool bit = line == last;
                last = line;
                if (n_ones == 6) {
                    good &= !bit;  // a stuffed bit
                    n_ones = 0;
                } else {
                    n_ones = bit ? n_ones + 1 : 0;
                    if (n_bits < 0) {
                        if (bit) {
                            good &= n_zeros == 7;
                            n_bits = 0;
                        }
                        n_zeros++;
                    } else {
                        shift = shift >> 1 | bit << 7;
                        if (++n_bits == 8) {
                            packet.push_back(shift);
                            n_bits = 0;
                        }
                    }
                }
            }
            if (packet.size() > kMaxPacketBytes + 3) {
                good = false;
                break;
            }
            const int next = step(kReleased);
            phase = next != line ? 0 : (phase + 1) % kCyclesPerBit;
            line = next;
        }
        good &= n_bits == 0 && !packet.empty() && packet[0] % 16 == (~packet[0] >> 4 & 15);
        int n_se0 = 0;  // the bits of SE0 end with J
        while (line == kSe0 && n_se0++ < 20 * kCyclesPerBit) line = step(kReleased);
        good &= line == kJ && n_se0 >= kCyclesPerBit && n_se0 <= 3 * kCyclesPerBit;
        for (int i = 0; i < 20 && outputs_.oe; i++) step(kReleased);
        wait(2 * kCyclesPerBit);
        if (good && packet.size() > 1) {
            good = packet.size() >= 3 &&
                   crc16(packet.data() + 1, packet.size() - 3) ==
                       (packet[packet.size() - 2] | packet[packet.size() - 1] << 8);
        }
        counters.n_bad_packets += !good;
        if (fails()) {
            counters.n_damaged++;
            good = false;
        }
        if (!good) return std::nullopt;
        return packet;
    }

    // ---- transactions --------------------------------------------------------------------------

    int address = 0;

    // Begins a frame if one is due, or if the next transaction would not end in this one.
    void keep_frames() {
        if (now + kMaxTransactionCycles < next_frame_) return;
        while (now < next_frame_) step(kReleased);
        send_token(kSof, uint16_t(frame_++ & 0x7FF));
        next_frame_ = std::max(next_frame_ + kFrameCycles, now);
    }

    Result out(int endpoint, Pid pid, const Bytes& data, Pid token = kOut) {
        keep_frames();
        send_token(token, address, endpoint);
        send_data(pid, data);
        const std::optional<Bytes> answer = receive();
        if (!answer) return Result::kError;
        if (answer->size() == 1) {
            switch ((*answer)[0] & 15) {
                case kAck: return Result::kAck;
                case kNak: counters.n_naks++; return Result::kNak;
                case kStall: counters.n_stalls++; return Result::kStall;
            }
        }
        counters.n_bad_answers++;
        return Result::kError;
    }

    // `expected` is the data toggle; a packet with the other one is a repeated one, which is
    // acknowledged and dropped.
    Result in(int endpoint, int& expected, Bytes& data) {
        keep_frames();
        send_token(kIn, address, endpoint);
        const std::optional<Bytes> answer = receive();
        if (!answer) return Result::kError;
        const int pid = (*answer)[0] & 15;
        if (pid == kNak && answer->size() == 1) {
            counters.n_naks++;
            return Result::kNak;
        }
        if (pid == kStall && answer->size() == 1) {
            counters.n_stalls++;
            return Result::kStall;
        }
        if ((pid != kData0 && pid != kData1) || answer->size() < 3) {
            counters.n_bad_answers++;
            return Result::kError;
        }
        wait(2 * kCyclesPerBit);
        if (!fails()) {
            send({id(kAck)});
        } else {
            counters.n_damaged++;
        }
        wait(3 * kCyclesPerBit);
        if ((pid == kData1) != (expected == 1)) {
            counters.n_repeated++;
            // Without faults there is no reason for a repetition.
            counters.n_bad_answers += error_rate == 0;
            return Result::kError;
        }
        expected ^= 1;
        data.assign(answer->begin() + 1, answer->end() - 2);
        return Result::kAck;
    }

    // A control transfer. Returns kAck, kStall, or kError if the device does not answer.
    Result control(std::array<uint16_t, 4> request, Bytes& data) {
        const uint16_t length = request[3];
        Bytes setup;
        for (const uint16_t word : request) {
            setup.push_back(word);
            setup.push_back(word >> 8);
        }
        Result result = repeat([&] { return out(0, kData0, setup, kSetup); });
        if (result != Result::kAck) return result;
        int toggle = 1;
        const bool to_host = request[0] & 0x80;
        if (to_host) {
            data.clear();
            while (data.size() < length) {
                Bytes packet;
                result = repeat([&] { return in(0, toggle, packet); });
                if (result != Result::kAck) return result;
                data.insert(data.end(), packet.begin(), packet.end());
                if (packet.size() < kMaxPacketBytes) break;
            }
            return repeat([&] { return out(0, kData1, {}); });
        }
        for (size_t sent = 0; sent < length; sent += kMaxPacketBytes, toggle ^= 1) {
            const Bytes packet(data.begin() + sent,
                               data.begin() + std::min<size_t>(sent + kMaxPacketBytes, length));
            result = repeat([&] { return out(0, toggle ? kData1 : kData0, packet); });
            if (result != Result::kAck) return result;
        }
        Bytes none;
        toggle = 1;
        result = repeat([&] { return in(0, toggle, none); });
        counters.n_bad_answers += result == Result::kAck && !none.empty();
        return result;
    }

    template <class Transaction>
    Result repeat(Transaction transaction) {
        for (int n_errors = 0, n_naks = 0; n_errors < kMaxErrors && n_naks < 1000;) {
            const Result result = transaction();
            if (result == Result::kAck || result == Result::kStall) return result;
            n_errors += result == Result::kError;
            n_naks += result == Result::kNak;
        }
        return Result::kError;
    }

    // ---- the serial port -------------------------------------------------------------------------

    // Makes the device ready, as an operating system does. False if the device does not answer as a
    // serial port does.
    bool enumerate() {
        for (int i = 0; i < 60000 && !attached(); i++) step(kReleased);
        if (!attached()) return false;
        wait(600);
        reset_bus();
        next_frame_ = now;
        Bytes device;
        const auto get = [&](uint16_t value, uint16_t index, uint16_t length, Bytes& data) {
            return control({0x0680, value, index, length}, data) == Result::kAck;
        };
        if (!get(0x0100, 0, 64, device) || device.size() != 18) return false;
        Bytes none;
        if (control({0x0500, 5, 0, 0}, none) != Result::kAck) return false;
        address = 5;
        wait(60 * 20);
        if (!get(0x0100, 0, 18, device) || device.size() != 18 || device[7] != 64) return false;
        if (!get(0x0200, 0, 9, configuration) || configuration.size() != 9) return false;
        const uint16_t total = configuration[2] | configuration[3] << 8;
        if (!get(0x0200, 0, total, configuration) || configuration.size() != total) return false;
        Bytes text;
        if (!get(0x0300, 0, 255, text)) return false;
        for (const int index : {device[14], device[15]}) {
            if (!get(0x0300 | index, 0x0409, 255, text)) return false;
            if (text.size() < 4 || text[0] != text.size() || text[1] != 3) return false;
            strings.emplace_back();
            for (size_t i = 2; i < text.size(); i += 2) strings.back().push_back(text[i]);
        }
        vendor = device[8] | device[9] << 8;
        product = device[10] | device[11] << 8;
        out_endpoint = in_endpoint = 0;
        for (size_t i = 0; i + 1 < total && configuration[i]; i += configuration[i]) {
            if (configuration[i + 1] != 5 || configuration[i + 3] != 2) continue;  // bulk endpoints
            (configuration[i + 2] & 0x80 ? in_endpoint : out_endpoint) = configuration[i + 2] & 15;
        }
        if (!out_endpoint || !in_endpoint) return false;
        if (control({0x0900, configuration[5], 0, 0}, none) != Result::kAck) return false;
        toggle_in_ = toggle_out_ = 0;
        rate_ = 0;
        Bytes ignored;
        return control({0x2221, 3, 0, 0}, ignored) == Result::kAck;  // the port is open
    }

    bool set_rate(uint32_t rate) {
        if (rate == rate_) return true;
        rate_ = rate;
        Bytes coding = {uint8_t(rate), uint8_t(rate >> 8), uint8_t(rate >> 16), uint8_t(rate >> 24),
                        0, 0, 8};
        return control({0x2021, 0, 0, 7}, coding) == Result::kAck;
    }

    bool send_break() {
        Bytes none;
        return control({0x2321, 0xFFFF, 0, 0}, none) == Result::kAck &&
               control({0x2321, 0, 0, 0}, none) == Result::kAck;
    }

    // One transaction that sends bytes to the serial port.
    Result write(const Bytes& data) {
        const Result result = out(out_endpoint, toggle_out_ ? kData1 : kData0, data);
        if (result == Result::kAck) {
            toggle_out_ ^= 1;
            counters.n_out_bytes += data.size();
        }
        return result;
    }

    // One transaction that asks for bytes of the serial port.
    Result read(Bytes& data) {
        data.clear();
        const Result result = in(in_endpoint, toggle_in_, data);
        counters.n_in_bytes += data.size();
        counters.n_empty += result == Result::kAck && data.empty();
        return result;
    }

    void clear_halts() {
        Bytes none;
        control({0x0102, 0, uint16_t(out_endpoint), 0}, none);
        control({0x0102, 0, uint16_t(0x80 | in_endpoint), 0}, none);
        toggle_in_ = toggle_out_ = 0;
    }

    Bytes configuration;
    std::vector<std::string> strings;
    int vendor = 0, product = 0, out_endpoint = 0, in_endpoint = 0;

   private:
    static uint8_t id(Pid pid) { return pid | (~pid & 15) << 4; }

    bool fails() { return error_rate > 0 && random() < error_rate * double(random.max()); }

    std::function<Outputs(int)> cycle_;
    Outputs outputs_ = {false, kSe0, false};
    FILE* vcd_ = nullptr;
    int traced_ = -1;
    unsigned long next_frame_ = 0;
    unsigned frame_ = 0;
    int toggle_in_ = 0, toggle_out_ = 0;
    uint32_t rate_ = 0;
};

}  // namespace usb
