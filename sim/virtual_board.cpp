// A virtual board: the verilated device behind a pseudo terminal.
//
// Prints the terminal's path, then moves bytes between the terminal and the device's serial pins, bit
// by bit at the rate that the terminal is set to. Ends when its standard input is closed, or with a
// signal (SIGUSR1 resets the device, SIGUSR2 prints the statistics). While the device reports no
// activity and no byte is on its way, the simulated time stands still and the process sleeps.
// While only the link is at work, the core's clock stands still; while only the core is at work, the
// link's clock stands still.
//
// With the option --every-cycle both clocks always run, so that tests can compare.
//
// With the option --direct, standard input carries rows to write to the memories past the serial line:
// a RowsHeader, then the rows as on the line. They are written in cycles that are not counted, while
// the device is idle; then "ok" is printed. Nothing else of the device is bypassed: the host can have
// it check the rows over the line.
//
// With the macro PORTABLE the device is the portable Verilog, which has one clock and a
// reset that it prolongs itself. With the macro USB, a USB host moves the bytes over the pins D+ and D-
// in place of the UART.
#include <asm/termbits.h>  // for rates of any value, which <termios.h> does not know
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "Vtop.h"
#ifdef SDRAM_DATA_BITS
#include "sdram.hpp"
#endif
#ifdef USB
#include "usb_port.hpp"
#endif
#ifndef PORTABLE
#include "Vtop___024root.h"
#endif
#include "verilated.h"

#ifndef PORTABLE
void Vtop___024root___eval(Vtop___024root* root);  // Verilator's, which no header declares
#endif

namespace {

constexpr double kClkHz = CLK_HZ;
constexpr double kResetSeconds = 30e-6;  // more than the portable device prolongs its reset
// Clocks of core or link after `core_wanted` or `link_wanted` falls; fewer than 12 suffice.
constexpr int kSettleCycles = 16;
constexpr int kSliceCycles = 1024;  // simulated between two checks of the terminal
constexpr size_t kMaxUnsent = 1 << 16;  // bytes that a client has not read yet
constexpr size_t kMaxToSend = 4096;  // bytes of a client that wait for the line

volatile sig_atomic_t stopped = 0;
volatile sig_atomic_t reset_wanted = 0;
volatile sig_atomic_t stats_wanted = 0;

void stop(int) { stopped = 1; }
void want_reset(int) { reset_wanted = 1; }
void want_stats(int) { stats_wanted = 1; }

double seconds(clockid_t clock) {
    timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

[[noreturn]] void fail(const char* what) {
    perror(what);
    exit(1);
}

// A raw pseudo terminal. The slave end stays open here, so that clients may come and go.
struct Terminal {
    int master;
    int slave;

    Terminal() {
        master = posix_openpt(O_RDWR | O_NOCTTY);
        if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0) fail("pseudo terminal");
        slave = open(ptsname(master), O_RDWR | O_NOCTTY);
        if (slave < 0) fail(ptsname(master));
        termios2 settings;
        ioctl(slave, TCGETS2, &settings);
        settings.c_iflag = 0;
        settings.c_oflag = 0;
        settings.c_lflag = 0;
        ioctl(slave, TCSETS2, &settings);
        fcntl(master, F_SETFL, O_NONBLOCK);
    }

    // Clock cycles per bit at the rate that the client has set.
    double divisor() const {
        termios2 settings;
        if (ioctl(slave, TCGETS2, &settings) < 0 || settings.c_ospeed == 0) return kClkHz;
        return std::max(1.0, kClkHz / settings.c_ospeed);
    }
};

// What precedes rows on standard input, in this machine's byte order.
struct RowsHeader {
    uint32_t space, row, n_rows, n_row_bytes;
};

// Bytes of a client, which are sent from cycle `due` on at the rate at which they were written.
struct Chunk {
    unsigned long due;
    double divisor;
    std::vector<unsigned char> bytes;
};

// The host's UART: drives the device's rx pin and watches its tx pin. A bit may last a fractional
// number of cycles, so timers are not integers.
struct Uart {
    std::deque<Chunk> chunks;
    size_t n_chunk_bytes_sent = 0;  // of the first chunk
    size_t n_to_send = 0;
    double send_divisor = 1, receive_divisor = 1;  // cycles per bit
    unsigned send_bits = 0;  // bits still to send, the next one lowest
    int n_send_bits = 0;
    double send_timer = 0;
    int n_receive_bits = 0;
    double receive_timer = 0;
    unsigned received = 0;

    bool sending() const { return n_send_bits != 0 || !chunks.empty(); }
    bool receiving() const { return n_receive_bits != 0; }

    void send(Chunk chunk) {
        n_to_send += chunk.bytes.size();
        chunks.push_back(std::move(chunk));
    }

    // Level of rx for the coming cycle.
    int drive(unsigned long now) {
        if (n_send_bits == 0) {
            if (chunks.empty() || chunks.front().due > now) {
                send_timer = 0;
                return 1;
            }
            const Chunk& chunk = chunks.front();
            send_divisor = chunk.divisor;
            send_bits = chunk.bytes[n_chunk_bytes_sent++] << 1 | 1 << 9;
            n_send_bits = 10;
            n_to_send--;
            if (n_chunk_bytes_sent == chunk.bytes.size()) {
                chunks.pop_front();
                n_chunk_bytes_sent = 0;
            }
            send_timer += send_divisor;
        }
        const int level = send_bits & 1;
        if (--send_timer < 0.5) {
            send_bits >>= 1;
            if (--n_send_bits != 0) send_timer += send_divisor;
        }
        return level;
    }

    // Takes the level of tx; true when a byte is complete in `received`.
    bool sample(int level) {
        if (n_receive_bits == 0) {
            if (level) return false;
            n_receive_bits = 9;  // eight data bits and the stop bit
            receive_timer = 1.5 * receive_divisor;
            received = 0;
            return false;
        }
        if (--receive_timer >= 0.5) return false;
        receive_timer += receive_divisor;
        if (--n_receive_bits == 0) return level;
        received = received >> 1 | level << 7;
        return false;
    }
};

}  // namespace

int main(int argc, char** argv) {
    bool stats = false;
    bool direct = false;
    [[maybe_unused]] bool every_cycle = false;
    [[maybe_unused]] const char* sdram_path = nullptr;  // file of the SDRAM's contents
    unsigned long n_latency_cycles = 0;  // of the adapter between client and line, each way
#ifdef USB
    UsbOptions usb_options;
#endif
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--stats") == 0) stats = true;
        if (strcmp(argv[i], "--direct") == 0) direct = true;
        if (strcmp(argv[i], "--every-cycle") == 0) every_cycle = true;
#ifdef USB
        usb_options.parse(argv[i]);
#endif
        if (strncmp(argv[i], "--sdram=", 8) == 0) sdram_path = argv[i] + 8;
        if (strncmp(argv[i], "--latency=", 10) == 0) n_latency_cycles = atof(argv[i] + 10) * kClkHz;
    }
    struct sigaction action = {};
    action.sa_handler = stop;  // without SA_RESTART, so that poll() returns
    sigaction(SIGTERM, &action, nullptr);
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGHUP, &action, nullptr);
    action.sa_handler = want_reset;
    sigaction(SIGUSR1, &action, nullptr);
    action.sa_handler = want_stats;
    sigaction(SIGUSR2, &action, nullptr);
    sigset_t handled;
    sigemptyset(&handled);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2}) sigaddset(&handled, signal);

    Terminal terminal;
    printf("%s\n", ptsname(terminal.master));
    fflush(stdout);

    VerilatedContext context;
    Vtop device{&context};
#ifdef PORTABLE
    const auto tick = [&device] {
        device.clk = 0;
        device.eval();
        device.clk = 1;
        device.eval();
    };
    const auto reset = [&device, &tick] {
        device.rx = 1;
        device.rst = 1;
        for (int i = 0; i < 4; i++) tick();
        device.rst = 0;
        for (int i = 0; i < kResetSeconds * kClkHz; i++) tick();
    };
#else
    // Falling edges change nothing: tell the model that there was one, in place of evaluating it.
    CData& last_clk = device.rootp->__Vtrigprevexpr___TOP__clk__0;
    CData& last_core_clk = device.rootp->__Vtrigprevexpr___TOP__core_clk__0;
    device.clk = device.core_clk = 0;
    device.eval();
    device.clk = device.core_clk = 1;
    int n_core_cycles = 0;  // that the core's clock still has to run
    int n_link_cycles = 0;  // that the link's clock still has to run
#ifdef USB
    UsbClocks usb_clocks(device);
#endif
#ifdef SDRAM_DATA_BITS
    Sdram sdram(1, sdram_path);  // its clock stands still with the core's
#endif
    // Without the locks and message queues of Vtop::eval(), which the model does not need.
    const auto evaluate = [&device] { Vtop___024root___eval(device.rootp); };
    const auto tick = [&] {
#ifdef USB
        usb_clocks.tick();
        n_link_cycles = kSettleCycles;
#endif
        if (device.link_wanted || !device.rx || device.rst || every_cycle) {
            n_link_cycles = kSettleCycles;
        }
        if (device.core_wanted || device.core_rst || every_cycle) n_core_cycles = kSettleCycles;
        if (n_link_cycles != 0) {
            n_link_cycles--;
            last_clk = 0;
        }
        if (n_core_cycles == 0) {
            if (last_clk == 0) evaluate();
            return;
        }
        n_core_cycles--;
        last_core_clk = 0;
#ifdef SDRAM_DATA_BITS
        const Sdram::Word word = sdram.tick(
            {!!device.sdram___05Fclk_en, !!device.sdram___05Fcs_n, !!device.sdram___05Fras_n,
             !!device.sdram___05Fcas_n, !!device.sdram___05Fwe_n, device.sdram___05Fba,
             device.sdram___05Fa, device.sdram___05Fdq_o, !!device.sdram___05Fdq_oe,
             device.sdram___05Fdqm});
        if (sdram.n_violations) exit(3);  // no answer could be trusted any more
        evaluate();
        device.sdram___05Fdq_i = word;
#else
        evaluate();
#endif
    };
    const auto reset = [&] {
        device.rx = 1;
        device.rst = device.core_rst = 1;
#ifdef USB
        usb_clocks.reset(tick);
#endif
        tick();
        tick();
        device.rst = device.core_rst = 0;
    };
#endif
    reset();

    std::vector<unsigned char> input;  // of --direct, incomplete
    // Writes the rows of the first complete message in `input`; false if there is none.
    const auto write_rows = [&] {
        RowsHeader header;
        if (input.size() < sizeof header) return false;
        memcpy(&header, input.data(), sizeof header);
        const size_t n_bytes = size_t{header.n_rows} * header.n_row_bytes;
        if (input.size() - sizeof header < n_bytes) return false;
#ifndef PORTABLE
        const unsigned char* row = input.data() + sizeof header;
        device.direct_valid = 1;
        device.direct_space = header.space;
        for (uint32_t i = 0; i < header.n_rows; i++, row += header.n_row_bytes) {
            device.direct_row = header.row + i;
            memcpy(&device.direct_data, row,
                   std::min(sizeof device.direct_data, size_t{header.n_row_bytes}));
            n_core_cycles = kSettleCycles;
            tick();
        }
        device.direct_valid = 0;
        for (int i = 0; i < kSettleCycles; i++) tick();
#endif
        input.erase(input.begin(), input.begin() + sizeof header + n_bytes);
        return true;
    };

    std::deque<std::pair<unsigned long, unsigned char>> unsent;  // each with the cycle it is due at
#ifdef USB
    UsbPort uart(device, tick, usb_options);
#else
    Uart uart;
#endif
    unsigned long n_cycles = 0, n_bytes_in = 0, n_bytes_out = 0;
    const double cpu_start = seconds(CLOCK_PROCESS_CPUTIME_ID);
    const auto print_stats = [&](FILE* file) {
        const double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu_start;
        fprintf(file,
                "{\"n_cycles\": %lu, \"cpu_s\": %.3f, \"mcycles_per_s\": %.3f, "
                "\"n_bytes_in\": %lu, \"n_bytes_out\": %lu}\n",
                n_cycles, cpu, n_cycles / cpu * 1e-6, n_bytes_in, n_bytes_out);
#ifdef USB
        uart.print_stats(file);
#endif
        fflush(file);
    };

    while (!stopped) {
        pollfd watched[] = {{STDIN_FILENO, short(direct ? POLLIN : 0), 0},
                            {terminal.master, 0, 0}};
        const bool room = unsent.size() < kMaxUnsent;
        const bool waiting = !unsent.empty() && unsent.front().first > n_cycles;
        const bool active =
            uart.sending() || uart.receiving() || device.activity || !device.tx || waiting;
        if (uart.n_to_send < kMaxToSend + n_latency_cycles / 40) watched[1].events |= POLLIN;
        if (!unsent.empty() && !waiting) watched[1].events |= POLLOUT;
        // Block signals between this check and the wait, or the wait would miss them.
        sigset_t before;
        sigprocmask(SIG_BLOCK, &handled, &before);
        const bool wanted = stopped || reset_wanted || stats_wanted;
        const timespec at_once = {};
        const int n_ready =
            ppoll(watched, 2, (active && room) || wanted ? &at_once : nullptr, &before);
        sigprocmask(SIG_SETMASK, &before, nullptr);
        if (reset_wanted) {
            reset_wanted = 0;
            reset();
#ifdef USB
            uart.enumerate();
#endif
        }
        if (stats_wanted) {
            stats_wanted = 0;
            print_stats(stdout);
        }
        if (n_ready < 0) continue;
        if (watched[0].revents & POLLIN) {
            unsigned char bytes[1 << 16];
            const ssize_t n = read(STDIN_FILENO, bytes, sizeof bytes);
            if (n > 0) input.insert(input.end(), bytes, bytes + n);
            if (n == 0) break;
        } else if (watched[0].revents & (POLLHUP | POLLERR)) {
            break;
        }
        if (!active && write_rows()) {
            printf("ok\n");
            fflush(stdout);
        }
        uart.receive_divisor = terminal.divisor();
        if (watched[1].revents & POLLIN) {
            // These bytes were written at the current rate: a client waits until all bytes are
            // taken before it changes the rate.
            unsigned char bytes[kMaxToSend];
            const ssize_t n = read(terminal.master, bytes, sizeof bytes);
            if (n > 0) {
                uart.send(Chunk{
                    n_cycles + n_latency_cycles, uart.receive_divisor, {bytes, bytes + n}});
                n_bytes_in += n;
            }
        }
        if (watched[1].revents & POLLOUT) {
            unsigned char chunk[1024];
            size_t n = 0;
            while (n < std::min(unsent.size(), sizeof chunk) && unsent[n].first <= n_cycles) {
                chunk[n] = unsent[n].second;
                n++;
            }
            const ssize_t n_written = write(terminal.master, chunk, n);
            if (n_written > 0) unsent.erase(unsent.begin(), unsent.begin() + n_written);
        }
        if (!room || !(active || uart.sending())) continue;

#ifdef USB
        for (const unsigned char byte : uart.transact(n_cycles)) {
            unsent.emplace_back(n_cycles + n_latency_cycles, byte);
            n_bytes_out++;
        }
#else
        for (int i = 0; i < kSliceCycles; i++) {
            device.rx = uart.drive(n_cycles + i);
            tick();
            if (uart.sample(device.tx)) {
                unsent.emplace_back(n_cycles + i + n_latency_cycles, uart.received);
                n_bytes_out++;
            }
        }
        n_cycles += kSliceCycles;
#endif
    }

    if (stats) print_stats(stderr);
    device.final();
    return 0;
}
