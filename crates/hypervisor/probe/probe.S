# A guest that proves, in a few milliseconds, that a virtual processor really works.
#
# It replaces the firmware: the processor starts in it at the reset vector, so nothing else runs first. It goes through
# real, protected and long mode and does, once each, what every guest kernel does in its first second. Every stage first
# writes its name to the debug console (port 0xe9); a guest that hangs or dies has therefore said where. It ends by
# writing PASS, WRONG, NO_NESTING or TOO_SLOW to the isa-debug-exit device (port 0xf4).
#
# The last byte of the image is the request, patched in by the host: 0 nothing more, 1 run a nested guest with SVM,
# 2 enter VMX operation, 255 loop for ever (proves the host's deadline).
#
# XSETBV and AVX are left out on purpose: under nested SVM emulated by TCG (QEMU 7.2) about one run in twenty then comes
# back with wrong flags, and a host guest under emulation would be told that its KVM does not work.
#
# Build: as --64 probe.S -o probe.o && ld -m elf_x86_64 -e 0 -Ttext=0x8000 --oformat binary -o probe.bin probe.o

        .intel_syntax noprefix
        .set    PASS, 0x10
        .set    WRONG, 0x11
        .set    NO_NESTING, 0x12
        .set    TOO_SLOW, 0x13
        .set    CLOCKS, 250             # for one instruction; hardware needs about one, QEMU's TCG about ten

        .set    SIZE, 4096              # of the image; it is mapped so that it ends at 4 GiB and at 1 MiB
        .set    PML4, 0x10000
        .set    PDPT, 0x11000
        .set    PD_LOW, 0x12000
        .set    PD_HIGH, 0x13000
        .set    PT_LAZY, 0x14000        # maps 0x400000..0x600000, filled by the page-fault handler
        .set    IDT, 0x15000
        .set    TSS, 0x16000
        .set    HOST_SAVE, 0x17000      # SVM's host save area; the VMXON region
        .set    VMCB, 0x18000
        .set    TICKS, 0x19000
        .set    FAULTS, 0x19008
        .set    TRAPS, 0x19010
        .set    FPU_AREA, 0x19200
        .set    STACK, 0x1b000
        .set    TRAP_STACK, 0x1c000
        .set    USER_STACK, 0x1d000
        .set    NESTED_STACK, 0x1e000
        .set    LAZY, 0x400000
        .set    LAZY_FRAMES, 0x600000
        .set    BULK, 0x800000          # memory that is written and read back
        .set    BULK_BYTES, 0x400000
        .set    APIC, 0xfee00000

        .macro  stage name              # writes its name to the debug console; clobbers esi, ecx, edx
        jmp     8f
9:      .ascii  "\name\n"
8:      mov     esi, offset 9b
        mov     ecx, offset 8b - 9b
        mov     edx, 0xe9
        rep outsb
        .endm

        .text
# ---------------------------------------------------------------- real mode
        .code16
image:
reset:  cli
        cld
        mov     ax, 0xff00              # the image below 1 MiB; what follows runs from RAM, as kernels do
        mov     ds, ax
        xor     ax, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x7000
        xor     si, si
        mov     di, offset image
        mov     cx, SIZE / 4
        rep movsd
        ljmp    0, offset real

real:   xor     ax, ax
        mov     ds, ax
        stage   "real mode"
        mov     word ptr [0x40 * 4], offset real_int
        mov     word ptr [0x40 * 4 + 2], 0
        mov     ax, 0x1234
        int     0x40                    # firmware calls are this
        cmp     ax, 0x1235
        jne     1f
        cmp     byte ptr [request], 255
2:      je      2b
        lgdt    [gdt_pointer]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        ljmp    0x40, offset protected
1:      mov     al, WRONG
        out     0xf4, al
        jmp     1b

real_int:
        inc     ax
        iret

# ---------------------------------------------------------------- protected mode
        .code32
protected:
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esp, STACK
        stage   "protected mode"
        mov     eax, 0x80000001
        cpuid
        bt      edx, 29
        jnc     wrong32                 # no long mode

        mov     edi, PML4               # clear all tables and save areas
        mov     ecx, (0x20000 - PML4) / 4
        xor     eax, eax
        rep stosd

        mov     dword ptr [PML4], PDPT + 7
        mov     dword ptr [PDPT], PD_LOW + 7
        mov     dword ptr [PDPT + 3 * 8], PD_HIGH + 7
        mov     edi, PD_LOW             # 64 MiB in large pages, ...
        mov     eax, 0x87
        mov     ecx, 32
1:      mov     [edi], eax
        add     eax, 0x200000
        add     edi, 8
        loop    1b
        mov     dword ptr [PD_LOW + (LAZY >> 21) * 8], PT_LAZY + 7      # ... 2 MiB of them in small ones, absent
        mov     dword ptr [PD_HIGH + ((APIC >> 21) & 511) * 8], APIC + 0x9b    # uncached

        mov     eax, cr4
        or      eax, 0x6a0              # PAE, PGE, OSFXSR, OSXMMEXCPT
        mov     cr4, eax
        mov     eax, PML4
        mov     cr3, eax
        mov     ecx, 0xc0000080         # EFER: long mode, SYSCALL
        rdmsr
        or      eax, 0x101
        wrmsr
        mov     eax, cr0
        and     eax, 0x9ffffffb         # caches on, no FPU emulation
        or      eax, 0x80010022         # paging, write protection, NE, MP
        mov     cr0, eax
        ljmp    0x08, offset long_mode

wrong32:
        mov     al, WRONG
        out     0xf4, al
        jmp     wrong32

# ---------------------------------------------------------------- long mode
        .code64
wrong:  mov     al, WRONG
        out     0xf4, al
        jmp     wrong

long_mode:
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     rsp, STACK
        stage   "long mode"
        mov     ecx, 0xc0000080         # EFER.LMA must have come on
        rdmsr
        bt      eax, 10
        jnc     wrong

        mov     edi, IDT                # every vector is an error, except those below
        mov     ebx, offset unexpected
        mov     ecx, 256
1:      call    set_gate
        loop    1b
        mov     edi, IDT + 6 * 16
        mov     ebx, offset on_invalid_opcode
        call    set_gate
        mov     edi, IDT + 14 * 16
        mov     ebx, offset on_page_fault
        call    set_gate
        mov     edi, IDT + 0x30 * 16
        mov     ebx, offset on_timer
        call    set_gate
        lidt    [idt_pointer]
        mov     qword ptr [TSS + 4], TRAP_STACK
        mov     word ptr [TSS + 102], 104
        mov     ax, 0x30
        ltr     ax

        stage   "model-specific registers"
        mov     ecx, 0xc0000081         # STAR
        xor     eax, eax
        mov     edx, 0x001b0008
        call    write_and_check
        mov     ecx, 0xc0000082         # LSTAR
        mov     eax, offset on_syscall
        xor     edx, edx
        call    write_and_check
        mov     ecx, 0xc0000084         # SFMASK: no interrupts
        mov     eax, 0x200
        call    write_and_check
        mov     ecx, 0xc0000101         # GS base, used by an access
        mov     eax, offset word_for_gs
        call    write_and_check
        mov     rax, gs:[0]
        cmp     rax, [word_for_gs]
        jne     wrong
        mov     ecx, 0x1b               # APIC base
        rdmsr
        and     eax, 0xfffff800
        cmp     eax, APIC + 0x800
        jne     wrong
        rdtsc
        mov     ebx, eax
        mov     ebp, edx
        rdtsc
        sub     eax, ebx                # time must not run backwards
        sbb     edx, ebp
        js      wrong

        stage   "vector arithmetic"
        movaps  xmm0, [floats]
        addps   xmm0, xmm0
        mulps   xmm0, [floats]
        cvtps2dq xmm1, xmm0
        fxsave  [FPU_AREA]
        pxor    xmm1, xmm1
        fxrstor [FPU_AREA]
        pcmpeqd xmm1, [products]
        pmovmskb eax, xmm1
        cmp     eax, 0xffff
        jne     wrong
        stage   "exceptions"
        ud2
        cmp     dword ptr [TRAPS], 1
        jne     wrong

        stage   "page faults"
        mov     edi, LAZY
        mov     ecx, 16
1:      mov     [rdi], rdi              # absent: the handler maps it
        add     edi, 4096
        loop    1b
        cmp     dword ptr [FAULTS], 16
        jne     wrong
        and     dword ptr [PT_LAZY], 0xfffffffd
        invlpg  [LAZY]
        mov     edi, LAZY
        mov     [rdi], rdi              # write-protected: the handler makes it writable
        cmp     dword ptr [FAULTS], 17
        jne     wrong
        mov     ebx, LAZY_FRAMES        # the same memory through its other mapping
        cmp     [rbx], rdi
        jne     wrong
        mov     rax, cr3
        mov     cr3, rax

        stage   "memory"
        mov     edi, BULK
        mov     ecx, BULK_BYTES / 8
        mov     rax, 0x0123456789abcdef
        rep stosq
        mov     ebx, BULK
1:      xor     [rbx], rbx
        add     ebx, 4096
        cmp     ebx, BULK + BULK_BYTES
        jb      1b
        mov     ebx, BULK
1:      mov     rcx, rax
        xor     rcx, rbx
        cmp     [rbx], rcx
        jne     wrong
        cmp     [rbx + 8], rax
        jne     wrong
        add     ebx, 4096
        cmp     ebx, BULK + BULK_BYTES
        jb      1b

        stage   "speed"                 # the best of ten rounds, so that a busy host is not taken for an emulator
        mov     r8, -1
        xor     ebx, ebx
        mov     r9d, 10
2:      rdtsc
        shl     rdx, 32
        or      rax, rdx
        mov     rbp, rax
        mov     ecx, 50000
1:      add     rbx, rcx
        loop    1b
        rdtsc
        shl     rdx, 32
        or      rax, rdx
        sub     rax, rbp
        cmp     rax, r8
        cmovb   r8, rax
        dec     r9d
        jnz     2b
        mov     rax, 12500250000
        cmp     rax, rbx
        jne     wrong
        cmp     r8, 100000 * CLOCKS
        ja      too_slow

        stage   "timer interrupts while halted"
        mov     al, 0xff                # the old interrupt controllers stay out of it
        out     0x21, al
        out     0xa1, al
        mov     ebx, APIC
        mov     dword ptr [rbx + 0xf0], 0x1ff
        mov     dword ptr [rbx + 0x3e0], 0xb
        mov     dword ptr [rbx + 0x320], 0x30
        call    arm_timer
1:      sti
        hlt
        cli
        cmp     dword ptr [TICKS], 10
        jb      1b

        stage   "timer interrupts while busy"
        sti
1:      cmp     dword ptr [TICKS], 20
        jb      1b
        cli

        stage   "user mode"
        mov     ecx, offset user
        mov     r11d, 0x202
        mov     rsp, USER_STACK
        sysretq

user:   cmp     dword ptr [TICKS], 25   # interrupted out of user mode
        jb      user
        mov     rbx, 0x5ca1ab1e
        syscall
        ud2

on_syscall:
        mov     rsp, STACK
        cmp     rbx, 0x5ca1ab1e
        jne     wrong
        lea     rax, [rip + user]
        cmp     rcx, rax
        jbe     wrong
        mov     ebx, APIC
        mov     dword ptr [rbx + 0x320], 0x10030        # timer off

        cmp     byte ptr [request], 1
        je      nested_svm
        cmp     byte ptr [request], 2
        je      nested_vmx

passed: stage   "ok"
        mov     al, PASS
        out     0xf4, al
        jmp     passed

too_slow:
        mov     al, TOO_SLOW
        out     0xf4, al
        jmp     too_slow

no_nesting:
        mov     al, NO_NESTING
        out     0xf4, al
        jmp     no_nesting

# ---------------------------------------------------------------- SVM: a guest of this guest
nested_svm:
        stage   "svm"
        mov     eax, 0x80000001
        cpuid
        bt      ecx, 2
        jnc     no_nesting
        mov     ecx, 0xc0010114         # VM_CR: the firmware may have turned SVM off
        rdmsr
        bt      eax, 4
        jc      no_nesting
        mov     ecx, 0xc0000080
        rdmsr
        bts     eax, 12
        wrmsr
        mov     ebp, eax                # EFER
        mov     ecx, 0xc0010117         # VM_HSAVE_PA
        mov     eax, HOST_SAVE
        xor     edx, edx
        wrmsr

        mov     edi, VMCB
        mov     dword ptr [rdi + 0x0c], 0x01000001      # intercept interrupts and HLT,
        mov     dword ptr [rdi + 0x10], 3               # VMRUN (architecture demands it) and VMMCALL
        mov     dword ptr [rdi + 0x58], 1               # address space
        mov     eax, 0x8000000a
        cpuid
        test    edx, 1
        jz      1f
        mov     dword ptr [VMCB + 0x90], 1              # nested paging, through this guest's own tables
        mov     dword ptr [VMCB + 0xb0], PML4
        mov     dword ptr [VMCB + 0x668], 0x00070406    # PAT
        mov     dword ptr [VMCB + 0x66c], 0x00070406
1:      mov     dword ptr [rdi + 0x410], 0x029b0008     # CS: 64-bit code
        mov     dword ptr [rdi + 0x414], -1
        mov     dword ptr [rdi + 0x420], 0x0c930010     # SS, DS, ES: data
        mov     dword ptr [rdi + 0x424], -1
        mov     dword ptr [rdi + 0x430], 0x0c930010
        mov     dword ptr [rdi + 0x434], -1
        mov     dword ptr [rdi + 0x400], 0x0c930010
        mov     dword ptr [rdi + 0x404], -1
        mov     [rdi + 0x4d0], ebp
        mov     rax, cr4
        mov     [rdi + 0x548], rax
        mov     rax, cr3
        mov     [rdi + 0x550], rax
        mov     rax, cr0
        mov     [rdi + 0x558], rax
        mov     dword ptr [rdi + 0x560], 0x400
        mov     dword ptr [rdi + 0x568], 0xffff0ff0
        mov     dword ptr [rdi + 0x570], 2
        mov     dword ptr [rdi + 0x578], offset nested_guest
        mov     dword ptr [rdi + 0x5d8], NESTED_STACK

        mov     eax, VMCB
        vmsave  rax                     # it gets this guest's task register and system registers
        mov     r12d, 10
1:      mov     eax, VMCB
        clgi
        vmload  rax
        vmrun   rax
        vmsave  rax
        stgi
        cmp     dword ptr [VMCB + 0x70], 0x81           # left by VMMCALL
        jne     wrong
        add     dword ptr [VMCB + 0x578], 3
        dec     r12d
        jnz     1b
        cmp     dword ptr [VMCB + 0x5f8], 10            # the count it kept in RAX
        jne     wrong
        mov     eax, VMCB
        clgi
        vmload  rax
        vmrun   rax
        stgi
        cmp     dword ptr [VMCB + 0x70], 0x78           # left by HLT
        jne     wrong
        jmp     passed

nested_guest:
        xor     eax, eax
1:      inc     eax
        push    rax
        pop     rax
        vmmcall
        cmp     eax, 10
        jb      1b
        hlt

# ---------------------------------------------------------------- VMX: into VMX operation and out again
nested_vmx:
        stage   "vmx"
        mov     eax, 1
        cpuid
        bt      ecx, 5
        jnc     no_nesting
        mov     ecx, 0x3a               # FEATURE_CONTROL: lock and VMXON outside SMX, as firmware would set
        rdmsr
        test    eax, 1
        jnz     1f
        or      eax, 5
        wrmsr
        rdmsr
1:      and     eax, 5
        cmp     eax, 5
        jne     no_nesting
        mov     ecx, 0x480              # VMX_BASIC: the revision a VMXON region starts with
        rdmsr
        and     eax, 0x7fffffff
        mov     [HOST_SAVE], eax
        mov     rax, cr4
        bts     eax, 13
        mov     cr4, rax
        mov     qword ptr [TSS + 0x200], HOST_SAVE
        vmxon   [TSS + 0x200]
        jbe     wrong
        vmxoff
        jbe     wrong
        jmp     passed

# ---------------------------------------------------------------- subroutines and handlers
set_gate:                               # the gate at rdi leads to ebx; rdi moves on
        mov     [rdi], bx
        mov     word ptr [rdi + 2], 8
        mov     word ptr [rdi + 4], 0x8e00
        mov     word ptr [rdi + 6], 0
        add     rdi, 16
        ret

write_and_check:                        # edx:eax into register ecx, and back
        mov     ebx, eax
        mov     ebp, edx
        wrmsr
        rdmsr
        cmp     eax, ebx
        jne     wrong
        cmp     edx, ebp
        jne     wrong
        ret

arm_timer:                              # one shot of a million APIC clocks; rbx is the APIC
        mov     dword ptr [rbx + 0x380], 1000000
        ret

on_timer:
        push    rbx
        mov     ebx, APIC
        inc     dword ptr [TICKS]
        mov     dword ptr [rbx + 0xb0], 0
        call    arm_timer
        pop     rbx
        iretq

on_invalid_opcode:
        inc     dword ptr [TRAPS]
        add     qword ptr [rsp], 2
        iretq

on_page_fault:
        push    rax
        push    rbx
        inc     dword ptr [FAULTS]
        mov     rax, cr2
        mov     ebx, eax
        shr     ebx, 21
        cmp     ebx, LAZY >> 21
        jne     wrong
        and     eax, 0x1ff000
        mov     ebx, eax
        shr     ebx, 9
        add     eax, LAZY_FRAMES + 7
        mov     [rbx + PT_LAZY], rax
        mov     rbx, cr2
        invlpg  [rbx]
        pop     rbx
        pop     rax
        add     rsp, 8
        iretq

unexpected:
        stage   "unexpected exception"
        jmp     wrong

# ---------------------------------------------------------------- data
        .balign 16
gdt:    .quad   0
        .quad   0x00af9b000000ffff      # 08 kernel code
        .quad   0x00cf93000000ffff      # 10 kernel data
        .quad   0                       # 18 base of SYSRET's selectors
        .quad   0x00cff3000000ffff      # 20 user data
        .quad   0x00affb000000ffff      # 28 user code
        .quad   0x0000890000000067 | (TSS & 0xffffff) << 16     # 30 task state
        .quad   0
        .quad   0x00cf9b000000ffff      # 40 32-bit code
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt
idt_pointer:
        .word   4095
        .quad   IDT
        .balign 16
floats: .float  1, 2, 3, 4
products:
        .long   2, 8, 18, 32
word_for_gs:
        .quad   0x6e6573746c696e67

# ---------------------------------------------------------------- reset vector: the last 16 bytes
        .org    SIZE - 16, 0
        .code16
        jmp     reset
        .org    SIZE - 1, 0
request:
        .byte   0
