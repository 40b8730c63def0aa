// Scenes that a USB host (usb_host.hpp) plays with a device that sends back what it receives.
//
// Arguments are names of scenes, by default all, and --vcd=FILE for a trace of D+ and D-. The result
// is JSON: for each scene whether it went as it must, and counters.
#include <stdio.h>
#include <string.h>

#include <functional>
#include <memory>
#include <string>

#include "Vtop.h"
#include "Vtop___024root.h"
#include "usb_host.hpp"
#include "verilated.h"

using usb::Bytes;
using usb::Host;
using usb::Result;

namespace {

VerilatedContext context;
const char* vcd_path = nullptr;

struct Bench {
    std::unique_ptr<Vtop> device = std::make_unique<Vtop>(&context);
    int phase = 0;
    Host host{[this](int line) { return cycle(line); }};

    Bench() {
        device->clk = device->usb_clk = device->usb_io_clk = 0;
        device->rst = device->usb_rst = device->usb_io_rst = 1;
        device->eval();
        device->clk = device->usb_clk = device->usb_io_clk = 1;
        for (int i = 0; i < 20; i++) cycle(usb::kSe0);
        device->rst = device->usb_rst = device->usb_io_rst = 0;
        if (vcd_path) host.trace(vcd_path);
    }

    usb::Outputs cycle(int line) {
        // Clocks only rise: the model is told that they fell before. 60, 48 and 12 MHz have a ratio
        // of 5 to 4 to 1.
        auto* root = device->rootp;
        root->__Vtrigprevexpr___TOP__clk__0 = 0;
        if (phase != 4) root->__Vtrigprevexpr___TOP__usb_io_clk__0 = 0;
        if (phase == 0) root->__Vtrigprevexpr___TOP__usb_clk__0 = 0;
        phase = (phase + 1) % 5;
        device->pins___05Fd_p_i = line >> 1;
        device->pins___05Fd_n_i = line & 1;
        device->eval();
        return {!!device->pins___05Foe, device->pins___05Fd_p_o << 1 | device->pins___05Fd_n_o,
                !!device->pins___05Fpullup};
    }

    Bytes some(size_t n) {
        Bytes bytes(n);
        for (uint8_t& byte : bytes) byte = host.random();
        return bytes;
    }

    // Sends bytes in packets and reads as many, taking turns as a host does.
    bool loop(const Bytes& bytes, size_t packet_bytes = 64) {
        Bytes back;
        size_t sent = 0;
        for (int n_idle = 0; n_idle < 200 && (sent < bytes.size() || back.size() < bytes.size());) {
            n_idle++;
            if (sent < bytes.size()) {
                const size_t n = std::min(packet_bytes, bytes.size() - sent);
                const Bytes packet(bytes.begin() + sent, bytes.begin() + sent + n);
                if (host.write(packet) == Result::kAck) sent += n, n_idle = 0;
            }
            Bytes data;
            if (host.read(data) == Result::kAck && !data.empty()) n_idle = 0;
            back.insert(back.end(), data.begin(), data.end());
        }
        return back == bytes;
    }

    // Reads all bytes that the device still has.
    Bytes drain() {
        Bytes all;
        for (int n_naks = 0; n_naks < 4;) {
            Bytes data;
            const Result result = host.read(data);
            n_naks = result == Result::kNak ? n_naks + 1 : 0;
            all.insert(all.end(), data.begin(), data.end());
        }
        return all;
    }

    Result request(uint16_t type_and_code, uint16_t value, uint16_t index, uint16_t length,
                   Bytes& data) {
        return host.control({type_and_code, value, index, length}, data);
    }
};

bool enumeration(Bench& bench) {
    return bench.host.enumerate() && bench.host.strings.size() == 2;
}

bool loopback(Bench& bench) {
    if (!bench.host.enumerate()) return false;
    for (const size_t n : {1, 7, 63, 64, 65, 128, 300}) {
        if (!bench.loop(bench.some(n))) return false;
    }
    return bench.loop(bench.some(100), 1) && bench.loop(bench.some(200), 17) &&
           bench.loop(Bytes(70, 0)) && bench.loop(Bytes(70, 0xFF));
}

// A transfer that ends with a full packet ends with an empty one, or the host would wait on.
bool full_packet_ends(Bench& bench) {
    if (!bench.host.enumerate()) return false;
    for (const size_t n : {64, 128}) {
        const Bytes bytes = bench.some(n);
        if (!bench.loop(bytes)) return false;
        Bytes data;
        Result result = Result::kNak;
        for (int i = 0; i < 4 && result == Result::kNak; i++) result = bench.host.read(data);
        if (result != Result::kAck || !data.empty()) return false;
        if (!bench.drain().empty()) return false;
    }
    return true;
}

bool held_device_refuses(Bench& bench) {
    if (!bench.host.enumerate()) return false;
    bench.device->hold = 1;
    Bytes sent;
    int n_naks = 0;
    while (n_naks < 50 && sent.size() < 4096) {
        const Bytes packet = bench.some(64);
        if (bench.host.write(packet) == Result::kAck) {
            sent.insert(sent.end(), packet.begin(), packet.end());
        } else {
            n_naks++;
        }
    }
    bench.device->hold = 0;
    return n_naks == 50 && sent.size() >= 64 && sent.size() <= 256 && bench.drain() == sent;
}

bool slow_reader_loses_nothing(Bench& bench) {
    if (!bench.host.enumerate()) return false;
    Bytes sent;
    for (int n_naks = 0; n_naks < 20;) {
        const Bytes packet = bench.some(50);
        const bool taken = bench.host.write(packet) == Result::kAck;
        if (taken) sent.insert(sent.end(), packet.begin(), packet.end());
        n_naks += !taken;
    }
    return sent.size() >= 128 && bench.drain() == sent;
}

bool damaged_packets(Bench& bench) {
    bench.host.error_rate = 0.05;
    if (!bench.host.enumerate()) return false;
    return bench.loop(bench.some(4000)) && bench.loop(bench.some(300), 5) &&
           bench.host.counters.n_damaged > 10 && bench.host.counters.n_repeated > 0;
}

bool unknown_requests_stall(Bench& bench) {
    Host& host = bench.host;
    if (!host.enumerate()) return false;
    Bytes data;
    const bool stalled = bench.request(0x06A1, 0, 0, 8, data) == Result::kStall &&
                         bench.request(0x0680, 0x0600, 0, 10, data) == Result::kStall &&
                         bench.request(0x06C0, 0, 0, 8, data) == Result::kStall &&
                         bench.request(0x7721, 0, 0, 0, data) == Result::kStall &&
                         bench.request(0x0700, 0, 0, 0, data) == Result::kStall;
    return stalled && bench.loop(bench.some(100));
}

bool line_coding_is_kept(Bench& bench) {
    Host& host = bench.host;
    if (!host.enumerate()) return false;
    for (const uint32_t rate : {115200u, 10000000u, 9600u}) {
        if (!host.set_rate(rate)) return false;
        Bytes coding;
        if (bench.request(0x21A1, 0, 0, 7, coding) != Result::kAck || coding.size() != 7) return false;
        uint32_t back;
        memcpy(&back, coding.data(), 4);
        if (back != rate || coding[6] != 8) return false;
        const Bytes letters(40, 'a');
        if (!bench.loop(letters)) return false;
    }
    return bench.device->n_breaks == 0;
}

bool clear_halt(Bench& bench) {
    if (!bench.host.enumerate()) return false;
    for (int i = 0; i < 3; i++) {
        if (!bench.loop(bench.some(i + 1)) || !bench.drain().empty()) return false;
        bench.host.clear_halts();
    }
    return bench.loop(bench.some(100));
}

bool bus_reset(Bench& bench) {
    if (!bench.host.enumerate()) return false;
    for (int i = 0; i < 4; i++) {
        if (!bench.loop(bench.some(10 + i), 10)) return false;
        if (i % 2) {  // with bytes that the host has not read
            bench.host.write(bench.some(60));
            bench.host.wait(1000);
        }
        if (!bench.host.enumerate()) return false;
        bench.drain();
        if (!bench.loop(bench.some(100))) return false;
    }
    return true;
}

bool suspend_and_resume(Bench& bench) {
    if (!bench.host.enumerate()) return false;
    bench.host.wait(20 * usb::kFrameCycles);  // no frames: the device is suspended
    for (int i = 0; i < usb::kFrameCycles; i++) bench.host.step(usb::kK);
    for (int i = 0; i < 10; i++) bench.host.step(usb::kSe0);
    for (int i = 0; i < 5; i++) bench.host.step(usb::kJ);
    bench.host.wait(100);
    return bench.loop(bench.some(100));
}

bool unplugging(Bench& bench) {
    if (!bench.host.enumerate()) return false;
    const int n_tries = 6;
    for (int i = 0; i < n_tries; i++) {
        // The plug is pulled at some time in a packet to the device.
        const unsigned long when = bench.host.now + 100 + bench.host.random() % 3000;
        const Bytes packet = bench.some(64);
        bench.host.write(packet);
        while (bench.host.now < when) bench.host.step(bench.host.now & 8 ? usb::kJ : usb::kK);
        bench.host.plugged = false;
        bench.host.wait(bench.host.random() % (2 * usb::kFrameCycles));
        bench.host.plugged = true;
        if (!bench.host.enumerate()) return false;
        bench.drain();
        if (!bench.loop(bench.some(64 + i))) return false;
    }
    return true;
}

bool breaks(Bench& bench) {
    Host& host = bench.host;
    if (!host.enumerate()) return false;
    const auto n_breaks = [&] { return int(bench.device->n_breaks); };
    // SEND_BREAK drops the bytes that have not been taken, and no others.
    bench.device->hold = 1;
    for (int i = 0; i < 6; i++) host.write(bench.some(64));
    if (n_breaks() != 0 || !host.send_break()) return false;
    const Bytes after = bench.some(60);
    if (host.write(after) != Result::kAck || n_breaks() != 1) return false;
    bench.device->hold = 0;
    if (bench.drain() != after) return false;
    // So does a zero byte at the rate of a break, and nothing else.
    if (!bench.loop(Bytes(3, 0)) || n_breaks() != 1) return false;
    if (!host.set_rate(9600) || !bench.loop({'A', 'T', 0}) || n_breaks() != 1) return false;
    bench.device->hold = 1;
    while (host.write(bench.some(33)) == Result::kAck) continue;
    if (n_breaks() != 1) return false;
    host.write({0});  // refused, because the buffer is full, but a break
    if (host.write({0}) != Result::kAck || !host.set_rate(1000000)) return false;
    const int so_far = n_breaks();
    if (so_far < 2 || host.write(after) != Result::kAck || n_breaks() != so_far) return false;
    bench.device->hold = 0;
    return bench.drain() == after && bench.loop(bench.some(200));
}

// Hubs pass on the packets to other devices: their acknowledgements are not for this one.
bool other_devices(Bench& bench) {
    Host& host = bench.host;
    if (!host.enumerate()) return false;
    const Bytes bytes = bench.some(20);
    if (host.write(bytes) != Result::kAck) return false;
    host.wait(2000);
    host.keep_frames();
    host.send_token(usb::kIn, host.address, host.in_endpoint);
    if (!host.receive()) return false;  // and it is not acknowledged
    host.wait(200);
    host.send_token(usb::kIn, host.address + 1, host.in_endpoint);
    host.send_data(usb::kData0, bytes);
    host.wait(15);
    host.send({0xD2});  // ACK
    host.send_token(usb::kOut, host.address + 1, host.out_endpoint);
    host.send_data(usb::kData0, bench.some(30));
    host.wait(200);
    return bench.drain() == bytes;
}

bool clocks(Bench& bench) {
    for (const double ratio : {1.0025, 0.9975}) {
        bench.host.clock_ratio = ratio;
        if (!bench.host.enumerate() || !bench.loop(bench.some(1000))) return false;
    }
    return true;
}

double out_bytes_per_s, in_bytes_per_s;

bool throughput(Bench& bench) {
    Host& host = bench.host;
    if (!host.enumerate()) return false;
    constexpr int n_frames = 4;
    const auto rate = [&](const std::function<Result()>& transaction, unsigned long& n_bytes) {
        const unsigned long start = host.now, bytes_before = n_bytes;
        while (host.now < start + n_frames * usb::kFrameCycles) {
            if (transaction() != Result::kAck) return 0.0;
        }
        return double(n_bytes - bytes_before) / (host.now - start) * 60e6;
    };
    bench.device->sink = 1;
    out_bytes_per_s = rate([&] { return host.write(bench.some(64)); }, host.counters.n_out_bytes);
    bench.device->source = 1;
    host.wait(1000);
    uint8_t count = 0;
    bool good = true;
    in_bytes_per_s = rate(
        [&] {
            Bytes data;
            const Result result = host.read(data);
            for (const uint8_t byte : data) good &= byte == count++;
            return result;
        },
        host.counters.n_in_bytes);
    return good && out_bytes_per_s > 1e6 && in_bytes_per_s > 1e6;
}

const std::pair<const char*, bool (*)(Bench&)> kScenes[] = {
    {"enumeration", enumeration},
    {"loopback", loopback},
    {"full_packet_ends", full_packet_ends},
    {"held_device_refuses", held_device_refuses},
    {"slow_reader_loses_nothing", slow_reader_loses_nothing},
    {"damaged_packets", damaged_packets},
    {"unknown_requests_stall", unknown_requests_stall},
    {"line_coding_is_kept", line_coding_is_kept},
    {"clear_halt", clear_halt},
    {"bus_reset", bus_reset},
    {"suspend_and_resume", suspend_and_resume},
    {"unplugging", unplugging},
    {"breaks", breaks},
    {"other_devices", other_devices},
    {"clocks", clocks},
    {"throughput", throughput},
};

}  // namespace

int main(int argc, char** argv) {
    std::vector<std::string> wanted;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--vcd=", 6) == 0) {
            vcd_path = argv[i] + 6;
        } else {
            wanted.push_back(argv[i]);
        }
    }
    const char* separator = "{";
    for (const auto& [name, scene] : kScenes) {
        if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), name) == wanted.end()) continue;
        Bench bench;
        const bool good = scene(bench);
        const usb::Counters& c = bench.host.counters;
        printf("%s\"%s\": {\"good\": %s, \"n_violations\": %lu, \"n_packets\": %lu, "
               "\"n_naks\": %lu, \"n_repeated\": %lu, \"n_damaged\": %lu, \"min_answer_bits\": %.1f, "
               "\"max_answer_bits\": %.1f, \"n_cycles\": %lu",
               separator, name, good ? "true" : "false", c.n_violations(), c.n_packets, c.n_naks, c.n_repeated, c.n_damaged,
               c.min_answer_bits, c.max_answer_bits, bench.host.now);
        if (scene == throughput) {
            printf(", \"out_bytes_per_s\": %.0f, \"in_bytes_per_s\": %.0f", out_bytes_per_s,
                   in_bytes_per_s);
        }
        printf("}");
        separator = ",\n ";
        bench.device->final();
    }
    printf("}\n");
    return 0;
}
