"""Both networks stated once more in PyTorch, with the state-dict keys of the published checkpoints.

An independent statement to test against and to benchmark beside; written from the description of the networks.
"""

import torch
import torch.nn.functional as F
from torch import nn


class LayerNorm2d(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.body = nn.Module()
        self.body.weight = nn.Parameter(torch.ones(dim))
        self.body.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        x = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.body.weight, self.body.bias, eps=1e-5)
        return x.permute(0, 3, 1, 2)


class Attention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.heads = dim // 8
        self.temperature = nn.Parameter(torch.ones(self.heads, 1, 1))
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(3 * dim, 3 * dim, 3, padding=1, groups=3 * dim, bias=False)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=False)

    def forward(self, x):
        n, c, h, w = x.shape
        q, k, v = (t.reshape(n, self.heads, 8, h * w) for t in self.qkv_dwconv(self.qkv(x)).chunk(3, dim=1))
        attention = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature
        return self.project_out((attention.softmax(dim=-1) @ v).reshape(n, c, h, w))


class FeedForward(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.project_in = nn.Conv2d(dim, 4 * dim, 1, bias=False)
        self.dwconv = nn.Conv2d(4 * dim, 4 * dim, 3, padding=1, groups=4 * dim, bias=False)
        self.project_out = nn.Conv2d(2 * dim, dim, 1, bias=False)

    def forward(self, x):
        gate, value = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(gate) * value)


class GlobalPath(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm1 = LayerNorm2d(dim)
        self.attn = Attention(dim)
        self.norm2 = LayerNorm2d(dim)
        self.ffn = FeedForward(dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class ConvBN(nn.Module):
    def __init__(self, cin, cout, size=1, groups=1, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, size, padding=size // 2, groups=groups)
        if norm:
            self.bn = nn.BatchNorm2d(cout)

    def forward(self, x):
        x = self.conv(x)
        return self.bn(x) if hasattr(self, "bn") else x


class LocalPath(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dwconv = ConvBN(dim, dim, 7, dim)
        self.f1 = ConvBN(dim, 3 * dim, norm=False)
        self.f2 = ConvBN(dim, 3 * dim, norm=False)
        self.g = ConvBN(3 * dim, dim)
        self.dwconv2 = ConvBN(dim, dim, 7, dim, norm=False)
        self.aux_g = ConvBN(dim, dim)

    def forward(self, x):
        t = self.dwconv(x)
        return self.dwconv2(self.g(F.relu6(self.f1(t)) * self.f2(t))) + self.aux_g(x)


class DualBranch(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.Global = GlobalPath(dim)
        self.Local = LocalPath(dim)
        self.se_conv1 = nn.Conv2d(2 * dim, 2 * dim, 3, padding=1)
        self.se_conv2 = nn.Conv2d(2 * dim, 2 * dim, 1)
        self.se_conv3 = nn.Conv2d(2 * dim, dim, 1)
        self.se_conv4 = nn.Conv2d(2 * dim, dim, 1)

    def forward(self, x):
        g, l = self.Global(x), self.Local(x)  # noqa: E741
        z = self.se_conv2(self.se_conv1(torch.cat([g, l], 1))).mean((2, 3), keepdim=True)
        return x + l * torch.sigmoid(self.se_conv4(z)) + g * torch.sigmoid(self.se_conv3(z))


class Up(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.up = nn.Sequential(nn.ConvTranspose2d(cin, cout, 4, 2, 1, bias=False), nn.ReLU())

    def forward(self, x, size):
        x = self.up(x)
        return x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)


class Fuser(nn.Module):
    def __init__(self, d=32):
        super().__init__()
        self.emb1 = nn.Conv2d(2, d, 3, padding=1)
        self.emb2 = nn.Conv2d(d, 2 * d, 3, 2, 1)
        self.emb3 = nn.Conv2d(2 * d, 3 * d, 3, 2, 1)
        self.emb4 = nn.Conv2d(3 * d, 4 * d, 3, 2, 1)
        for i in range(1, 5):
            setattr(self, f"blk{i}", DualBranch(i * d))
        self.up4, self.up3, self.up2 = Up(4 * d, 3 * d), Up(3 * d, 2 * d), Up(2 * d, d)
        for i, c in ((1, 3 * d), (2, 2 * d), (3, d)):
            setattr(self, f"conv_3_{i}", nn.Conv2d(2 * c, c, 3, padding=1))
            setattr(self, f"upblk{i}", DualBranch(c))
        self.upblk4 = nn.Sequential(DualBranch(d), DualBranch(d))
        self.dec = nn.Sequential(
            nn.Conv2d(d, d // 2, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(d // 2, 1, 3, padding=1)
        )

    def forward(self, y, ir):
        x1 = self.blk1(self.emb1(torch.cat([y, ir], 1)))
        x2 = self.blk2(self.emb2(x1))
        x3 = self.blk3(self.emb3(x2))
        x = self.blk4(self.emb4(x3))
        x = self.upblk1(self.conv_3_1(torch.cat([self.up4(x, x3.shape[2:]), x3], 1)))
        x = self.upblk2(self.conv_3_2(torch.cat([self.up3(x, x2.shape[2:]), x2], 1)))
        x = self.upblk3(self.conv_3_3(torch.cat([self.up2(x, x1.shape[2:]), x1], 1)))
        return torch.sigmoid(self.dec(self.upblk4(x)))


class FusionNet(nn.Module):
    """Fused luminance from luminance and infrared, (N, 1, H, W) each."""

    def __init__(self):
        super().__init__()
        self.fuser = Fuser()

    def forward(self, y, ir):
        return self.fuser(y, ir)


class DenseBlock(nn.Module):
    def __init__(self, c=64, growth=32):
        super().__init__()
        self.conv1 = nn.Conv2d(c, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(c + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(c + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(c + 3 * growth, c, 3, padding=1)

    def forward(self, x):
        known = x
        for layer in (self.conv1, self.conv2, self.conv3):
            known = torch.cat([known, F.leaky_relu(layer(known), 0.2)], 1)
        return x + 0.2 * self.conv4(known)


class ChannelGate(nn.Module):
    def __init__(self, c=64):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(c, c // 16), nn.ReLU(), nn.Linear(c // 16, c), nn.Sigmoid())

    def forward(self, x):
        return x * (1 + self.fc(x.mean((2, 3))))[:, :, None, None]


class ReversedU(nn.Module):
    def __init__(self, c=64):
        super().__init__()
        self.up = nn.Sequential(nn.Conv2d(c, 4 * c, 3, padding=1), nn.PixelShuffle(2), nn.LeakyReLU(0.2))
        self.process = nn.Sequential(DenseBlock(c), DenseBlock(c))
        self.down = nn.Sequential(nn.Conv2d(c, c, 3, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(c, c, 3, padding=1))
        self.skip = nn.Conv2d(c, c, 1)

    def forward(self, x):
        return self.down(self.process(self.up(x))) + self.skip(x)


class SRNet(nn.Module):
    """RGB (N, 3, H, W) enlarged `scale` times, clipped to [0, 1]."""

    def __init__(self, scale=4, c=64):
        super().__init__()
        self.scale = scale
        self.head = nn.Sequential(nn.Conv2d(3, c, 3, padding=1), nn.LeakyReLU(0.2))
        self.rub_blocks = nn.ModuleList(
            nn.Sequential(ReversedU(c), ChannelGate(c), DenseBlock(c)) for _ in range(3)
        )
        self.fusion = nn.Sequential(nn.Conv2d(4 * c, c, 1), nn.LeakyReLU(0.2), ChannelGate(c))
        self.upsample = nn.Sequential(
            nn.Conv2d(c, c * scale**2, 3, padding=1), nn.PixelShuffle(scale), nn.Conv2d(c, 3, 3, padding=1)
        )
        self.refine = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(32, 3, 3, padding=1)
        )

    def forward(self, x):
        outputs = [self.head(x)]
        for stage in self.rub_blocks:
            outputs.append(stage(outputs[-1]))
        detail = self.upsample(self.fusion(torch.cat(outputs, 1)))
        base = F.interpolate(x, scale_factor=self.scale, mode="bicubic", align_corners=False)
        return self.refine(base + detail).clamp(0, 1)
