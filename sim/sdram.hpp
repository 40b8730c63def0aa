// Model of an SDRAM that checks every timing rule of the chip's data sheet, for the virtual board.
//
// It is the same model as sim/sdram_model.py; geometry and times come as macros from the chip's
// definition (hw/offchip/timing.py). Words that were never written are junk. A violation of a rule
// ends the program with a message, because no answer of the board could be trusted after it.
#pragma once

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <type_traits>

struct Sdram {
    static constexpr int kBanks = 4;
    static constexpr int kMaxPostponed = 8;  // refreshes, JEDEC 79 and successors
    static constexpr int kInitRefreshes = 8;
    static constexpr int kAllBanks = 1 << 10;
    static constexpr int64_t kNever = INT64_MIN / 4;
    static constexpr int kLine = 64;  // cycles of the data bus that are known in advance
    using Word = std::conditional_t<(SDRAM_DATA_BITS > 16), uint32_t, uint16_t>;

    struct Bank {
        int page = -1;
        int64_t activated = kNever, precharged = kNever;  // times in ps
        int64_t burst_end = -1, write_end = -100;          // cycles
    };

    static constexpr size_t kWords = size_t{kBanks} * SDRAM_ROWS * SDRAM_COLUMNS;
    Word* words;  // by page, bank and column
    Bank banks[kBanks];
    int64_t cycle = 0, n_words = 0, n_refreshes = 0;
    int64_t refreshed = kNever, first_refresh = kNever, activated = kNever, powered = kNever;
    int64_t mode_cycle = -100;
    int mode = -1;
    uint64_t junk = 0x9e3779b97f4a7c15;
    int64_t outputs[kLine], inputs[kLine];  // address of the word on the bus, by cycle; or -1
    const char* command = "";

    // With `path`, the words are those of this file, which another process may write, too.
    explicit Sdram(const char* path) {
        const int file = path ? open(path, O_RDWR | O_CREAT, 0600) : -1;
        if (path && (file < 0 || ftruncate(file, kWords * sizeof(Word)) < 0)) fail(path);
        void* place = mmap(nullptr, kWords * sizeof(Word), PROT_READ | PROT_WRITE,
                           path ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, file, 0);
        if (place == MAP_FAILED) fail("memory of the SDRAM");
        words = static_cast<Word*>(place);
        for (size_t i = 0; i < kWords; i++) words[i] = next_junk();
        for (int i = 0; i < kLine; i++) outputs[i] = inputs[i] = -1;
    }

    Word next_junk() {
        junk ^= junk << 13;
        junk ^= junk >> 7;
        junk ^= junk << 17;
        return junk >> 20;
    }

    int64_t now() const { return static_cast<int64_t>(cycle * (1e12 / CLK_HZ)); }

    [[noreturn]] static void fail(const char* what) {
        perror(what);
        exit(1);
    }
    void require(bool condition, const char* rule) {
        if (condition) return;
        fprintf(stderr, "SDRAM: %s in cycle %ld: %s\n", command, static_cast<long>(cycle), rule);
        exit(3);
    }
    void after(int64_t event, int64_t least, const char* rule) {
        require(now() - event >= least - 1, rule);
    }

    struct Pins {
        bool clk_en, cs_n, ras_n, cas_n, we_n;
        int ba, a;
        Word dq_o;
        bool dq_oe;
        int dqm;
    };

    // Takes the pins at a clock edge, and returns the data bus as it is in the next cycle.
    Word tick(const Pins& p) {
        const int code = p.cs_n || !p.clk_en ? 7 : p.ras_n | p.cas_n << 1 | p.we_n << 2;
        if (p.clk_en && powered == kNever) powered = now();
        if (code != 7) {
            check_common();
            switch (code) {
                case 0: set_mode(p.a); break;
                case 4: refresh(); break;
                case 2: precharge(p.ba, p.a); break;
                case 6: activate(p.ba, p.a); break;
                case 1: transfer(p.ba, p.a, true); break;
                case 5: transfer(p.ba, p.a, false); break;
                default: command = "unknown"; require(false, "no such command");
            }
        }
        command = "data bus";
        int64_t& in = inputs[cycle % kLine];
        if (in >= 0) {
            require(p.dq_oe, "the bus is not driven while a word is written");
            require(p.dqm == 0, "a written word is masked");
            words[in] = p.dq_o;
            in = -1;
            n_words++;
        } else if (p.dq_oe) {
            require(false, "the bus is driven although no word is written");
        }
        int64_t& out = outputs[cycle % kLine];
        int64_t& before = outputs[(cycle + kLine - 1) % kLine];
        if (p.dq_oe) require(out < 0 && before < 0, "the bus is driven by both sides");
        if (out >= 0) {
            require(p.dqm == 0, "a word that is read is masked");
            n_words++;
        }
        if (first_refresh != kNever && mode >= 0) {
            const double interval = double{SDRAM_REFRESH_PERIOD_PS} / SDRAM_N_REFRESHES;
            require((now() - first_refresh) / interval - n_refreshes <= kMaxPostponed + 1,
                    "too few refreshes");
        }
        before = -1;
        cycle++;
        const int64_t next = outputs[cycle % kLine];
        return next >= 0 ? words[next] : next_junk();
    }

    void check_common() {
        command = "command";
        require(powered != kNever, "the clock was not enabled");
        after(powered, SDRAM_POWER_UP_PS, "power-up time");
        after(refreshed, SDRAM_RFC_PS, "tRFC");
        require(cycle - mode_cycle >= SDRAM_MRD_CYCLES, "too soon after the mode was set");
    }

    void activate(int ba, int a) {
        command = "ACTIVATE";
        Bank& bank = banks[ba];
        require(mode >= 0, "the mode was not set");
        require(bank.page < 0, "the bank is open");
        require(a < SDRAM_ROWS, "there is no such page");
        after(bank.precharged, SDRAM_RP_PS, "tRP");
        after(bank.activated, SDRAM_RC_PS, "tRC");
        after(activated, SDRAM_RRD_PS, "tRRD");
        bank.page = a;
        bank.activated = activated = now();
    }

    void precharge(int ba, int a) {
        command = "PRECHARGE";
        for (int number = 0; number < kBanks; number++) {
            Bank& bank = banks[number];
            if ((!(a & kAllBanks) && number != ba) || bank.page < 0) continue;
            after(bank.activated, SDRAM_RAS_PS, "tRAS");
            require((cycle - bank.write_end) * (1e12 / CLK_HZ) >= SDRAM_WR_PS - 1, "tWR");
            require(cycle >= bank.write_end + 2, "two cycles after the last word");
            require(cycle >= bank.burst_end, "a burst would end early");
            bank.page = -1;
            bank.precharged = now();
        }
    }

    void transfer(int ba, int a, bool is_write) {
        command = is_write ? "WRITE" : "READ";
        Bank& bank = banks[ba];
        require(bank.page >= 0, "the bank is closed");
        require(!(a & kAllBanks), "bit 10 would close the bank");
        require(a < SDRAM_COLUMNS, "there is no such column");
        after(bank.activated, SDRAM_RCD_PS, "tRCD");
        const int burst = 1 << (mode & 7);
        for (const Bank& other : banks)
            require(cycle >= other.burst_end, "the burst before would end early");
        bank.burst_end = cycle + burst;
        const int64_t page = (int64_t{bank.page} * kBanks + ba) * SDRAM_COLUMNS;
        const int64_t start = is_write ? cycle : cycle + (mode >> 4 & 7);
        for (int n = 0; n < burst; n++)
            (is_write ? inputs : outputs)[(start + n) % kLine] =
                page + ((a & -burst) | ((a + n) & (burst - 1)));
        if (is_write) bank.write_end = cycle + burst - 1;
    }

    void refresh() {
        command = "REFRESH";
        for (const Bank& bank : banks) {
            require(bank.page < 0, "a bank is open");
            after(bank.precharged, SDRAM_RP_PS, "tRP");
            after(bank.activated, SDRAM_RC_PS, "tRC");
        }
        if (first_refresh == kNever) first_refresh = now();
        refreshed = now();
        n_refreshes++;
    }

    void set_mode(int a) {
        command = "MODE";
        for (const Bank& bank : banks) {
            require(bank.page < 0, "a bank is open");
            after(bank.precharged, SDRAM_RP_PS, "tRP");
        }
        require(n_refreshes >= kInitRefreshes, "too few refreshes before");
        require((a & ~0x77) == 0 && (a & 7) <= 3, "this mode is not supported");
        mode = a;
        mode_cycle = cycle;
    }
};
