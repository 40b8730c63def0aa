// The serial port over USB of a virtual board: a USB host that moves the bytes of a client.
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <deque>
#include <utility>
#include <vector>

#include "Vtop.h"
#include "Vtop___024root.h"
#include "usb_host.hpp"

void Vtop___024root___eval(Vtop___024root*);

// Options of the program: a trace of D+ and D-, and the share of packets that are damaged.
struct UsbOptions {
    const char* vcd = nullptr;
    double error_rate = 0;

    void parse(const char* argument) {
        if (strncmp(argument, "--vcd=", 6) == 0) vcd = argument + 6;
        if (strncmp(argument, "--usb-errors=", 13) == 0) error_rate = atof(argument + 13);
    }
};

constexpr double kHostHz = 60e6;  // of the host's steps (usb_host.hpp)

// The clocks of 48 and 12 MHz, of which four and one rise in five of the host's steps.
class UsbClocks {
   public:
    static inline UsbClocks* only = nullptr;

    explicit UsbClocks(Vtop& device) : device_(device) {
        only = this;
        device_.usb_clk = device_.usb_io_clk = 1;
        device_.rootp->__Vtrigprevexpr___TOP__usb_clk__0 = 1;
        device_.rootp->__Vtrigprevexpr___TOP__usb_io_clk__0 = 1;
    }

    // Lets those clocks rise with the next evaluation that rise in this step.
    void tick() {
        if (phase_ != 4) device_.rootp->__Vtrigprevexpr___TOP__usb_io_clk__0 = 0;
        if (phase_ == 0) device_.rootp->__Vtrigprevexpr___TOP__usb_clk__0 = 0;
        phase_ = (phase_ + 1) % 5;
    }

    template <class Tick>
    void reset(Tick tick) {
        device_.usb_rst = device_.usb_io_rst = 1;
        for (int i = 0; i < 10; i++) tick();
        device_.usb_rst = device_.usb_io_rst = 0;
    }

   private:
    Vtop& device_;
    int phase_ = 0;
};

class UsbPort {
   public:
    size_t n_to_send = 0;
    double receive_divisor = 1;

    template <class Tick>
    UsbPort(Vtop& device, Tick tick, const UsbOptions& options)
        : host_([this, &device, tick](int line) -> usb::Outputs {
              device.usb___05Fd_p_i = line >> 1;
              device.usb___05Fd_n_i = line & 1;
              if (clock_rises()) {
                  tick();
              } else {
                  UsbClocks::only->tick();
                  Vtop___024root___eval(device.rootp);
              }
              return {!!device.usb___05Foe, device.usb___05Fd_p_o << 1 | device.usb___05Fd_n_o,
                      !!device.usb___05Fpullup};
          }),
          device_(device) {
        if (options.vcd && !host_.trace(options.vcd)) {
            perror(options.vcd);
            exit(1);
        }
        host_.error_rate = options.error_rate;
        enumerate();
    }

    void enumerate() {
        for (int i = 0; i < 5; i++) {
            if (host_.enumerate()) return;
        }
        fprintf(stderr, "error: the device does not answer the USB host\n");
        exit(1);
    }

    bool sending() const { return !chunks_.empty(); }

    // Whether the device may still have bytes: the last questions for them were not all in vain.
    bool receiving() const { return n_naks_ < kNaks; }

    // Bytes of a client, which is at the rate that `divisor` cycles per bit say.
    template <class Chunk>
    void send(const Chunk& chunk) {
        n_to_send += chunk.bytes.size();
        const uint32_t rate = CLK_HZ / chunk.divisor + 0.5;
        chunks_.push_back({chunk.due, rate, {chunk.bytes.begin(), chunk.bytes.end()}});
        n_naks_ = 0;
    }

    // Lets the host send and ask for bytes, one packet each, and returns what arrived. `now` goes on
    // to the device's cycle at which that has ended.
    usb::Bytes transact(unsigned long& now) {
        const unsigned long before = n_cycles_;
        if (!chunks_.empty() && chunks_.front().due <= now) {
            Piece& piece = chunks_.front();
            if (!host_.set_rate(piece.rate)) lost();
            const size_t n = std::min<size_t>(usb::kMaxPacketBytes, piece.bytes.size());
            const usb::Bytes packet(piece.bytes.begin(), piece.bytes.begin() + n);
            if (checked(host_.write(packet)) == usb::Result::kAck) {
                piece.bytes.erase(piece.bytes.begin(), piece.bytes.begin() + n);
                n_to_send -= n;
                if (piece.bytes.empty()) chunks_.pop_front();
            }
        }
        usb::Bytes data;
        const usb::Result result = checked(host_.read(data));
        n_naks_ = result == usb::Result::kNak && !device_.activity ? n_naks_ + 1 : 0;
        now += n_cycles_ - before;
        return data;
    }

    void print_stats(FILE* file) const {
        const usb::Counters& c = host_.counters;
        fprintf(file == stdout ? stderr : file,
                "{\"usb_packets\": %lu, \"naks\": %lu, \"repeated\": %lu, \"damaged\": %lu, "
                "\"resets\": %lu, \"violations\": %lu, \"max_answer_bits\": %.1f}\n",
                c.n_packets, c.n_naks, c.n_repeated, c.n_damaged, c.n_resets, c.n_violations(),
                c.max_answer_bits);
    }

   private:
    static constexpr int kNaks = 4;  // in a row, each longer than a byte takes through the device
    static constexpr int kMaxErrors = 50;

    struct Piece {
        unsigned long due;
        uint32_t rate;
        usb::Bytes bytes;
    };

    // Whether the device's clock, which is no faster than the host's steps, rises in this step.
    bool clock_rises() {
        static_assert(CLK_HZ <= kHostHz);
        since_step_ += CLK_HZ;
        if (since_step_ < kHostHz) return false;
        since_step_ -= kHostHz;
        n_cycles_++;
        return true;
    }

    [[noreturn]] void lost() {
        fprintf(stderr, "error: the device no longer answers the USB host\n");
        exit(1);
    }

    usb::Result checked(usb::Result result) {
        n_errors_ = result == usb::Result::kError ? n_errors_ + 1 : 0;
        if (n_errors_ > kMaxErrors || result == usb::Result::kStall) lost();
        return result;
    }

    double since_step_ = 0;  // part of a cycle of the device's clock that has passed, times kHostHz
    unsigned long n_cycles_ = 0;  // of the device's clock
    usb::Host host_;  // uses the two above from its construction on
    Vtop& device_;
    std::deque<Piece> chunks_;
    int n_naks_ = 0, n_errors_ = 0;
};
