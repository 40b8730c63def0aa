// Model of an SDRAM for simulations with Verilator: checks every timing rule, and counts violations.
//
// The chip and the clock are macros, which sim.sdram_model.defines() makes: SDRAM_ROWS, SDRAM_COLUMNS,
// SDRAM_DATA_BITS, times such as SDRAM_T_RCD in picoseconds, and SDRAM_PERIOD, the clock's period.
// The rules are those of sim/sdram_model.py. Contents start as junk; `words` is open to the simulation,
// which may load it directly or flip bits.
#pragma once

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <deque>
#include <type_traits>

class Sdram {
   public:
    using Word = std::conditional_t<(SDRAM_DATA_BITS <= 16), uint16_t, uint32_t>;

    // Levels of the pins in a cycle.
    struct Pins {
        bool clk_en, cs_n, ras_n, cas_n, we_n;
        uint32_t ba, a;
        Word dq_o;
        bool dq_oe;
        uint32_t dqm;
    };

    Word* words;                  // by address: page, bank, column
    uint64_t n_violations = 0;    // of the rules
    uint64_t n_refreshes = 0;
    uint64_t n_words = 0;         // that were read or written
    bool fails_to_refresh = false;  // each refresh flips a bit in every page that it is about

    // With `path`, the words are those of this file, which other processes may change, too.
    explicit Sdram(uint32_t seed = 1, const char* path = nullptr) {
        constexpr size_t n = size_t(kBanks) * SDRAM_ROWS * SDRAM_COLUMNS;
        const int file = path ? open(path, O_RDWR | O_CREAT, 0600) : -1;
        if (path && (file < 0 || ftruncate(file, n * sizeof(Word)) < 0)) fail(path);
        void* place = mmap(nullptr, n * sizeof(Word), PROT_READ | PROT_WRITE,
                           path ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, file, 0);
        if (place == MAP_FAILED) fail("memory of the SDRAM");
        words = static_cast<Word*>(place);
        for (size_t i = 0; i < n; i++) words[i] = junk(seed);
        junk_state_ = seed;
    }

    // Takes the pins at a rising clock edge, and returns the data bus as it is in the next cycle.
    Word tick(const Pins& pins) {
        if (pins.clk_en && powered_ == kNever) powered_ = now_;
        if (pins.clk_en && !pins.cs_n) {
            switch (pins.ras_n | pins.cas_n << 1 | pins.we_n << 2) {
                case 0b110: activate(pins); break;
                case 0b101: read(pins); break;
                case 0b001: write(pins); break;
                case 0b010: precharge(pins); break;
                case 0b100: refresh(); break;
                case 0b000: set_mode(pins); break;
                case 0b011: require(false, "burst stop is not supported"); break;
            }
        }
        move_words(pins);
        if (mode_ >= 0) {
            const double due = double(now_ - first_refresh_) / kRefreshInterval;
            require(due - n_refreshes <= kMaxPostponed + 1, "a refresh is late");
        }
        now_ += SDRAM_PERIOD;
        cycle_++;
        if (!outputs_.empty() && outputs_.front().cycle == cycle_) return words[outputs_.front().address];
        return junk(junk_state_);  // of the floating bus
    }

   private:
    static constexpr int kBanks = 4;
    static constexpr int kMaxPostponed = 8;
    static constexpr int kInitRefreshes = 8;
    static constexpr int64_t kNever = -1'000'000'000'000;  // ps
    static constexpr double kRefreshInterval = double(SDRAM_REFRESH_PERIOD) / SDRAM_N_REFRESHES;

    struct Bank {
        int64_t page = -1;
        int64_t activated = kNever, closed = kNever;
        int64_t burst_end = 0;       // cycle after its last word
        int64_t last_write = -1000;  // cycle of the last word that is written
    };
    struct Transfer {
        int64_t cycle;
        size_t address;
    };

    std::array<Bank, kBanks> banks_;
    std::deque<Transfer> outputs_, inputs_;  // words by the cycle in which they are on the bus
    int64_t now_ = 0, cycle_ = 0;            // ps, cycles
    int64_t powered_ = kNever, activated_ = kNever, refreshed_ = kNever, first_refresh_ = kNever;
    int64_t mode_cycle_ = -1000, last_output_ = -1000;
    int mode_ = -1;
    size_t refresh_page_ = 0;
    uint32_t junk_state_ = 1;

    [[noreturn]] static void fail(const char* what) {
        perror(what);
        exit(1);
    }

    static Word junk(uint32_t& state) {
        state = state * 1664525 + 1013904223;
        return Word(state >> (SDRAM_DATA_BITS <= 16 ? 16 : 0) ^ state >> 13);
    }

    void require(bool holds, const char* rule) {
        if (holds) return;
        if (n_violations++ < 10) fprintf(stderr, "SDRAM, cycle %lld: %s\n", (long long)cycle_, rule);
    }
    void after(int64_t event, int64_t least, const char* rule) { require(now_ - event >= least, rule); }

    void check_any() {
        after(powered_ == kNever ? now_ : powered_, SDRAM_POWER_UP, "a command before power-up has ended");
        after(refreshed_, SDRAM_T_RFC, "tRFC is violated");
        require(cycle_ - mode_cycle_ >= SDRAM_T_MRD_CYCLES, "a command too soon after the mode was set");
    }

    void activate(const Pins& pins) {
        check_any();
        Bank& bank = banks_[pins.ba];
        require(mode_ >= 0, "the mode was not set");
        require(bank.page < 0, "an open bank is opened");
        require(pins.a < SDRAM_ROWS, "the page does not exist");
        after(bank.closed, SDRAM_T_RP, "tRP is violated");
        after(bank.activated, SDRAM_T_RC, "tRC is violated");
        after(activated_, SDRAM_T_RRD, "tRRD is violated");
        bank.page = pins.a % SDRAM_ROWS;
        bank.activated = activated_ = now_;
    }

    void precharge(const Pins& pins) {
        check_any();
        for (uint32_t b = 0; b < kBanks; b++) {
            Bank& bank = banks_[b];
            if ((b != pins.ba && !(pins.a >> 10 & 1)) || bank.page < 0) continue;
            after(bank.activated, SDRAM_T_RAS, "tRAS is violated");
            const int64_t since_write = cycle_ - bank.last_write;
            require(since_write >= 2 && since_write * SDRAM_PERIOD >= SDRAM_T_WR, "tWR is violated");
            require(cycle_ >= bank.burst_end, "a page is closed during a burst");
            bank.page = -1;
            bank.closed = now_;
        }
    }

    // Checks a read or write; adds its words, of which the first one is on the bus after `latency`.
    void transfer(const Pins& pins, std::deque<Transfer>& queue, int latency) {
        check_any();
        Bank& bank = banks_[pins.ba];
        require(bank.page >= 0, "a closed bank is read or written");
        require(!(pins.a >> 10 & 1) && pins.a < SDRAM_COLUMNS, "the column does not exist");
        after(bank.activated, SDRAM_T_RCD, "tRCD is violated");
        for (const Bank& other : banks_) require(cycle_ >= other.burst_end, "a burst is cut short");
        const uint32_t burst = 1 << (mode_ & 7);
        bank.burst_end = cycle_ + burst;
        const size_t page = (std::max<int64_t>(bank.page, 0) * kBanks + pins.ba) * SDRAM_COLUMNS;
        for (uint32_t n = 0; n < burst; n++) {
            const uint32_t column = (pins.a & ~(burst - 1)) | ((pins.a + n) & (burst - 1));
            queue.push_back({cycle_ + latency + n, page + column % SDRAM_COLUMNS});
        }
    }
    void read(const Pins& pins) { transfer(pins, outputs_, mode_ >> 4 & 7); }
    void write(const Pins& pins) {
        transfer(pins, inputs_, 0);
        banks_[pins.ba].last_write = banks_[pins.ba].burst_end - 1;
    }

    void check_closed() {
        for (const Bank& bank : banks_) {
            require(bank.page < 0, "a bank is open");
            after(bank.closed, SDRAM_T_RP, "tRP is violated");
        }
    }

    void refresh() {
        check_any();
        check_closed();
        for (const Bank& bank : banks_) after(bank.activated, SDRAM_T_RC, "tRC is violated");
        if (first_refresh_ == kNever) first_refresh_ = now_;
        refreshed_ = now_;
        n_refreshes++;
        if (fails_to_refresh && mode_ >= 0) {
            for (size_t b = 0; b < kBanks; b++) {
                words[(refresh_page_ * kBanks + b) * SDRAM_COLUMNS + refresh_page_ % SDRAM_COLUMNS] ^= 1;
            }
        }
        refresh_page_ = (refresh_page_ + 1) % SDRAM_ROWS;
    }

    void set_mode(const Pins& pins) {
        check_any();
        check_closed();
        require(n_refreshes >= kInitRefreshes, "too few refreshes before the mode is set");
        const int latency = pins.a >> 4 & 7;
        require(latency == 2 || latency == 3, "the CAS latency is not supported");
        require(SDRAM_PERIOD >= (latency == 2 ? SDRAM_T_CK_2 : SDRAM_T_CK_3), "the clock is too fast");
        require((pins.a & ~0x77) == 0 && (pins.a & 7) <= 3 && pins.ba == 0, "the mode is not supported");
        mode_ = pins.a & 0x77;
        mode_cycle_ = cycle_;
    }

    void move_words(const Pins& pins) {
        if (!inputs_.empty() && inputs_.front().cycle == cycle_) {
            require(pins.dq_oe, "the bus is not driven while a word is written");
            require(pins.dqm == 0, "a word that is written is masked");
            words[inputs_.front().address] = pins.dq_o;
            inputs_.pop_front();
            n_words++;
        } else {
            require(!pins.dq_oe, "the bus is driven although no word is written");
        }
        if (!outputs_.empty() && outputs_.front().cycle == cycle_) {
            require(pins.dqm == 0, "a word that is read is masked");
            outputs_.pop_front();
            last_output_ = cycle_;
            n_words++;
        }
        require(!pins.dq_oe || cycle_ - last_output_ > 1, "the bus is driven by both sides");
    }
};
